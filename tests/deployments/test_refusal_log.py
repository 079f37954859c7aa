"""However many requests are refused, the log has one line a second that counts them by reason."""

import logging

import pytest

from deployments.logs import REQUEST_ID
from deployments.refusal_log import RefusalLog


class Clock:
    """Stands still until it is moved."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock, caplog: pytest.LogCaptureFixture) -> RefusalLog:
    caplog.set_level(logging.WARNING)
    return RefusalLog(logging.getLogger("app.refusals"), clock=clock)


def test_the_first_refusal_is_told_at_once(refusals: RefusalLog, caplog: pytest.LogCaptureFixture) -> None:
    refusals.count("overloaded")

    assert caplog.messages == ["Requests refused: overloaded 1"]


def test_a_storm_is_one_line_a_second_and_no_refusal_is_lost(
    refusals: RefusalLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10_000):
        clock.now_s += 0.001
        refusals.count("overloaded")
    clock.now_s += 1
    refusals.tell()

    assert len(caplog.records) <= 12
    assert sum(record.refused["overloaded"] for record in caplog.records) == 10_000


def test_reasons_are_counted_apart(refusals: RefusalLog, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    refusals.count("overloaded")
    for reason in ("budget_too_small", "overloaded", "overloaded"):
        refusals.count(reason)
    clock.now_s += 1
    refusals.tell()

    assert caplog.messages[-1] == "Requests refused: budget_too_small 1, overloaded 2"


def test_what_is_left_of_a_burst_is_told_a_second_later_and_once(
    refusals: RefusalLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    refusals.count("overloaded")
    refusals.count("overloaded")
    refusals.tell()
    assert len(caplog.messages) == 1

    clock.now_s += 1
    refusals.tell()
    clock.now_s += 1
    refusals.tell()

    assert len(caplog.messages) == 2


def test_the_line_belongs_to_no_single_request(refusals: RefusalLog) -> None:
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(REQUEST_ID.get())  # type: ignore[method-assign]
    logging.getLogger("app.refusals").addHandler(handler)
    token = REQUEST_ID.set("one-of-many")

    refusals.count("overloaded")

    REQUEST_ID.reset(token)
    logging.getLogger("app.refusals").removeHandler(handler)
    assert seen == [""]
