"""Stage times are spelt as the ``Server-Timing`` header; what became of a request follows from its record."""

import pytest

from deployments.telemetry import Origin, RequestRecord, StageTimes, Stopwatch


def test_server_timing_splits_the_time_of_a_request() -> None:
    times = StageTimes(encode_ms=1.234, generate_ms=5, compose_ms=0.5).queued(2.0)

    assert times.server_timing() == "queue;dur=2.00, encode;dur=1.23, generate;dur=5.00, compose;dur=0.50"


def test_a_stopwatch_measures_its_block() -> None:
    with Stopwatch() as watch:
        total = sum(range(1000))

    assert total == 499500
    assert 0 < watch.elapsed_ms < 1000


def record(**fields: object) -> RequestRecord:
    return RequestRecord(50.0, Origin(), 0.0, **{"network_ms": 30.0, "server_ms": 5.0, "batch_size": 1, **fields})


@pytest.mark.parametrize(
    ("fields", "rung"),
    [
        ({}, "plan"),
        ({"batch_size": 0}, "shared"),
        ({"batch_size": 0, "is_kept": True}, "keep"),
        ({"reason": "overloaded"}, "refused"),
        ({"reason": "overloaded", "is_kept": True}, "refused"),
    ],
)
def test_the_rung_follows_from_what_happened(fields: dict[str, object], rung: str) -> None:
    assert record(**fields).rung == rung


@pytest.mark.parametrize(
    ("fields", "is_missed"),
    [
        ({}, False),
        ({"server_ms": 20.0}, False),
        ({"server_ms": 20.1}, True),
        ({"reason": "deadline_exceeded"}, True),
        ({"reason": "overloaded", "server_ms": 99.0}, False),
    ],
)
def test_a_budget_is_missed_by_an_answer_too_late_or_by_none_at_all(fields: dict[str, object], is_missed: bool) -> None:
    assert record(**fields).is_missed == is_missed
