"""The gateway tells of every request, whatever became of it; publishing never stands in its way."""

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from app.gateway import Gateway
from app.settings import AppSettings
from deployments.metrics import Sample
from duet.protocol.errors import DeadlineExceeded, InvalidSample, NonFiniteParameters, Overloaded, UnknownModel
from tests.app.gateway_requests import Stages, ask, filled, held

TOO_THIN = {"down_kbps": 8, "up_kbps": 1e6, "rtt_ms": 0}
SHARED_TOO = {"forms": ("factors", "shared")}


def values(gateway: Gateway, name: str, label: str = "model") -> dict[str, float]:
    """What a metric says, by one of its labels."""
    samples = [sample for sample in gateway.telemetry.metrics.samples() if sample.name == f"duet_{name}"]
    return {sample.labels.get(label, ""): sample.value for sample in samples}


async def test_every_rung_is_counted_with_what_it_was_made_of(gateway: Gateway) -> None:
    first = await ask(gateway, link="wifi", budget_ms=10_000)
    await ask(gateway, link="wifi", budget_ms=10_000, current=held(first))
    await ask(gateway, link=TOO_THIN, budget_ms=720, accepts=SHARED_TOO)
    with pytest.raises(InvalidSample):
        await ask(gateway, sample=[])

    assert values(gateway, "requests_total", "rung") == {"plan": 1, "keep": 1, "shared": 1, "refused": 1}
    assert values(gateway, "plans_total", "plan") == {"full-float32": 1, "shared": 1}
    assert values(gateway, "stage_ms_sum", "stage")["generate"] == 2
    assert values(gateway, "server_ms_count", "rung")["plan"] == 1
    assert values(gateway, "batch_size_count") == {"tiny": 1}
    assert values(gateway, "refusals_total", "reason") == {"invalid_sample": 1}


async def test_the_bytes_are_those_of_the_answers(gateway: Gateway) -> None:
    answers = [await ask(gateway, "application/json"), await ask(gateway)]

    assert values(gateway, "response_bytes_total") == {"tiny": sum(len(answer.content) for answer in answers)}


async def test_a_request_for_a_model_that_is_not_there_is_counted_without_its_name(gateway: Gateway) -> None:
    with pytest.raises(UnknownModel):
        await ask(gateway, model="films")

    assert values(gateway, "refusals_total") == {"unknown": 1}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(NonFiniteParameters(model="tiny", version="v1"), "non_finite_parameters"), (RuntimeError("x"), "internal_error")],
    ids=["of-the-protocol", "ours"],
)
async def test_a_failure_of_the_stages_is_counted_by_its_code(
    gateway: Gateway, stages: Stages, failure: Exception, reason: str
) -> None:
    stages.failure = failure

    with pytest.raises(type(failure)):
        await ask(gateway)

    assert values(gateway, "refusals_total", "reason") == {reason: 1}


async def test_an_answer_that_never_came_is_a_deadline_miss(gateway: Gateway, stages: Stages) -> None:
    await ask(gateway, link="wifi")
    stages.may_go_on.clear()

    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(ask(gateway, link="wifi", budget_ms=60), 10)

    assert values(gateway, "deadline_misses_total", "answer") == {"none": 1}


async def test_who_hangs_up_is_counted_and_the_queue_is_seen(gateway: Gateway, stages: Stages) -> None:
    asked = await filled(gateway, stages)
    with pytest.raises(Overloaded):
        await ask(gateway, link="wifi", budget_ms=10_000)

    gateway.telemetry.look(gateway)
    asked[-1].cancel()
    stages.may_go_on.set()
    await asyncio.gather(*asked, return_exceptions=True)

    assert values(gateway, "queue_length", "") == {"": 2}
    assert values(gateway, "predicted_wait_ms", "")[""] > 0
    assert values(gateway, "refusals_total", "reason") == {"overloaded": 1, "cancelled": 1}
    assert values(gateway, "stage_ms_sum", "stage")["queue"] > 0


async def test_the_active_version_is_one_and_the_one_before_is_zero(gateway: Gateway) -> None:
    class Seen:
        queue_length, predicted_wait_ms = 0, 0.0
        active_versions: dict[str, str] = {"tiny": "v1"}  # noqa: RUF012  # a test's own

    telemetry, seen = gateway.telemetry, Seen()
    telemetry.look(seen)
    seen.active_versions = {"tiny": "v2"}
    telemetry.look(seen)

    assert values(gateway, "active_version", "version") == {"v1": 0, "v2": 1}


async def test_the_log_has_one_line_for_many_refusals(
    models: Path, stages: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    class Clock:
        now_s = 0.0

        def __call__(self) -> float:
            return self.now_s

    clock = Clock()
    gateway = Gateway(AppSettings(models=str(models)), stages, clock=clock)
    await gateway.start()
    await gateway.catalog.stop()
    caplog.set_level(logging.WARNING)
    for _ in range(50):
        with pytest.raises(InvalidSample):
            await ask(gateway, sample=[])

    clock.now_s += 1
    gateway.telemetry.look(gateway)

    told = [record.message for record in caplog.records if record.name == "app.telemetry"]
    assert told == ["Requests refused: invalid_sample 1", "Requests refused: invalid_sample 49"]


class Publisher:
    """Keeps what it is given; fails where it is told to."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.published: asyncio.Queue[list[Sample]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def publish(self, samples: Iterable[Sample]) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("nobody listens")
        self._loop.call_soon_threadsafe(self.published.put_nowait, list(samples))


async def test_publishing_goes_on_after_a_failure(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.telemetry.PUBLISH_EVERY_S", 0.001)
    publisher = Publisher(failures=1)
    await ask(gateway)

    gateway.telemetry.start(gateway, publisher)
    samples = await asyncio.wait_for(publisher.published.get(), 10)
    await gateway.telemetry.stop()

    names: set[Any] = {sample.name for sample in samples}
    assert {"duet_requests_total", "duet_server_ms_bucket", "duet_read_timestamp_seconds"} <= names
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
