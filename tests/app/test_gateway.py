"""The gateway plans within the budget, sends nothing twice, and is never silently late."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.gateway import KEEP, Gateway, GatewayAnswer
from app.offers import ANSWER_TYPES, JSON, ONNX, PACKAGE
from app.schemas import PackageAnswer, ParametersRequest
from app.settings import AppSettings
from deployments.orders import Answered, Order
from duet.protocol.budget import PROFILES
from duet.protocol.errors import (
    BudgetTooSmall,
    DeadlineExceeded,
    InvalidSample,
    NonFiniteParameters,
    NotAcceptable,
    Overloaded,
    UnknownModel,
    VersionNotReady,
)
from duet.protocol.representation import Representation
from duet.registry import PublishedVersion
from tests.app.gateway_requests import SAMPLE, Stages, ask, filled, held
from tests.published_version import ITEM_IDS, TABLE, write_version


async def test_the_best_representation_that_fits_is_ordered_and_named(
    gateway: Gateway, stages: Stages, published: PublishedVersion
) -> None:
    answer = await ask(gateway, link="wifi", budget_ms=200)

    (order,) = stages.orders
    assert answer.status == 200
    assert answer.headers["Duet-Plan"] == str(order.representation) == "full-float32"
    assert answer.headers["Duet-Tag"] == order.tag.hex() == answer.content.hex()
    assert answer.headers["Duet-Version"] == published.digest.hex()
    assert answer.headers["Duet-Model-Version"] == "v1"
    assert answer.headers["Server-Timing"].endswith("encode;dur=1.00, generate;dur=2.00, compose;dur=3.00")


async def test_predicted_time_is_network_and_server(gateway: Gateway) -> None:
    answer = await ask(gateway, link="fast-4g")

    size = TABLE.package_bytes(Representation.parse("full-float32"))
    network_ms = PROFILES["fast-4g"].exchange_ms(request_bytes=100, response_bytes=size)
    assert float(answer.headers["Duet-Network-Ms"]) == pytest.approx(network_ms, abs=0.01)
    assert float(answer.headers["Duet-Predicted-Ms"]) > network_ms
    assert float(answer.headers["Duet-Server-Ms"]) > 0


async def test_a_smaller_budget_gets_a_smaller_representation(gateway: Gateway) -> None:
    # at 8 kbit/s each of the representations takes another number of milliseconds
    link = {"down_kbps": 8, "up_kbps": 1e6, "rtt_ms": 0}

    plans = [(await ask(gateway, link=link, budget_ms=budget)).headers["Duet-Plan"] for budget in (900, 1000, 1400)]

    sizes = [TABLE.package_bytes(Representation.parse(plan)) for plan in plans]
    assert sizes == sorted(set(sizes))


async def test_a_budget_that_nothing_fits_says_which_one_would(gateway: Gateway, stages: Stages) -> None:
    with pytest.raises(BudgetTooSmall) as refusal:
        await ask(gateway, link="slow-3g", budget_ms=100)

    smallest_ms = refusal.value.smallest_ms
    assert not stages.orders
    assert smallest_ms == int(smallest_ms)
    # the number makes the request longer; some bytes more are those of the field, which a default leaves out
    assert (await ask(gateway, link="slow-3g", budget_ms=smallest_ms, upload_bytes=120)).status == 200


async def test_the_budget_counts_from_when_the_request_had_arrived(gateway: Gateway, stages: Stages) -> None:
    request = ParametersRequest.model_validate({"device": "phone", "sample": SAMPLE, "link": "wifi", "budget_ms": 500})

    async def asked(waited_s: float) -> GatewayAnswer:
        arrived_s = time.monotonic() - waited_s
        return await gateway.parameters("tiny", request, media_type=PACKAGE, upload_bytes=100, arrived_s=arrived_s)

    read_at_once, read_late = await asked(0.0), await asked(0.2)
    with pytest.raises(Overloaded):  # not that the budget is too small: it is the server that was late
        await asked(0.6)

    predicted_ms = [float(answer.headers["Duet-Predicted-Ms"]) for answer in (read_at_once, read_late)]
    assert float(read_at_once.headers["Duet-Server-Ms"]) < 200 <= float(read_late.headers["Duet-Server-Ms"])
    assert predicted_ms[1] - predicted_ms[0] > 150
    assert len(stages.orders) == 2


async def test_when_qualities_are_swapped_the_plan_changes(tmp_path: Path, stages: Stages) -> None:
    plans = []
    for version, quality in (("v1", {}), ("v2", {"full-float32": 0.15, "factors-r1-int8": 0.9})):
        write_version(tmp_path, version=version, quality=quality)
        gateway = Gateway(AppSettings(models=str(tmp_path)), stages)
        await gateway.start()
        await gateway.catalog.stop()
        plans.append((await ask(gateway, link="wifi")).headers["Duet-Plan"])

    assert plans == ["full-float32", "factors-r1-int8"]


async def test_only_what_the_device_accepts_is_sent(gateway: Gateway) -> None:
    plans = [
        (await ask(gateway, link="wifi", accepts={"forms": forms, "dtypes": dtypes})).headers["Duet-Plan"]
        for forms, dtypes in ((("factors",), ("int8",)), (("composed",), ("float16", "int8")), (("shared",), ("int8",)))
    ]

    assert plans == ["factors-r3-int8", "composed-r3-float16", "shared"]


async def test_what_the_version_does_not_have_is_not_acceptable(tmp_path: Path, stages: Stages) -> None:
    write_version(tmp_path, heads=("factors",))
    gateway = Gateway(AppSettings(models=str(tmp_path)), stages)
    await gateway.start()
    await gateway.catalog.stop()

    with pytest.raises(NotAcceptable) as refusal:
        await ask(gateway, accepts={"forms": ("full",)})

    assert "factors-r3-int8" in refusal.value.offered


async def test_a_device_that_cannot_compose_gets_a_whole_model_of_full_precision(
    gateway: Gateway, stages: Stages, published: PublishedVersion
) -> None:
    answer = await ask(gateway, ONNX, link="wifi")

    network_ms = PROFILES["wifi"].exchange_ms(
        request_bytes=100, response_bytes=published.manifest.files["device.onnx"].bytes
    )
    assert (stages.orders[0].answer, answer.media_type) == ("onnx", ONNX)
    assert answer.headers["Duet-Plan"].endswith("float32")
    assert float(answer.headers["Duet-Network-Ms"]) == pytest.approx(network_ms, abs=0.01)


async def test_an_answer_in_json_says_what_the_headers_say(gateway: Gateway) -> None:
    answer = await ask(gateway, JSON)

    document = PackageAnswer.model_validate_json(answer.content)
    assert document.tag == answer.headers["Duet-Tag"]
    assert document.plan == answer.headers["Duet-Plan"]
    assert document.version == answer.headers["Duet-Version"]


@pytest.mark.parametrize("media_type", ANSWER_TYPES)
async def test_what_the_device_holds_is_not_made_again(gateway: Gateway, stages: Stages, media_type: str) -> None:
    first = await ask(gateway, media_type)
    stages.orders.clear()

    second = await ask(gateway, media_type, current=held(first))

    assert (second.status, second.headers["Duet-Plan"], second.content) == (204, KEEP, b"")
    assert second.headers["Duet-Tag"] == first.headers["Duet-Tag"]
    assert not stages.orders


async def test_another_sample_or_another_version_is_made(gateway: Gateway) -> None:
    first = await ask(gateway)
    stranger = held(first) | {"version": "0" * 32}

    answers = [await ask(gateway, current=held(first), sample=SAMPLE[:2]), await ask(gateway, current=stranger)]

    assert [answer.status for answer in answers] == [200, 200]


async def test_better_parameters_are_kept_when_only_worse_ones_would_arrive_in_time(gateway: Gateway) -> None:
    best = await ask(gateway, link="wifi")
    slow = {"down_kbps": 8, "up_kbps": 1e6, "rtt_ms": 0}

    worse_fits = await ask(gateway, link=slow, budget_ms=1000, current=held(best))
    nothing_fits = await ask(gateway, link=slow, budget_ms=100, current=held(best))

    assert (worse_fits.status, nothing_fits.status) == (204, 204)


async def test_worse_parameters_are_replaced_when_better_ones_fit(gateway: Gateway) -> None:
    worse = await ask(gateway, accepts={"forms": ("factors",), "dtypes": ("int8",)})

    better = await ask(gateway, link="wifi", current=held(worse))

    assert better.status == 200


async def test_only_the_last_items_make_the_tag(gateway: Gateway) -> None:
    recent = list(ITEM_IDS[:6])

    first, second = await ask(gateway, sample=recent), await ask(gateway, sample=[ITEM_IDS[9], *recent])

    assert first.headers["Duet-Tag"] == second.headers["Duet-Tag"]


async def test_the_stages_get_no_more_time_than_the_budget_leaves(gateway: Gateway, stages: Stages) -> None:
    await ask(gateway, link="wifi")  # so that the prediction is not what refuses
    stages.may_go_on.clear()

    with pytest.raises(DeadlineExceeded) as late:
        await asyncio.wait_for(ask(gateway, link="wifi", budget_ms=60), 10)

    assert late.value.budget_ms == 60
    assert 60 <= late.value.elapsed_ms < 5000


async def test_a_full_queue_is_told_at_once(gateway: Gateway, stages: Stages) -> None:
    asked = await filled(gateway, stages)

    with pytest.raises(Overloaded):
        await ask(gateway, link="wifi", budget_ms=10_000)

    stages.may_go_on.set()
    assert [answer.status for answer in await asyncio.gather(*asked)] == [200, 200, 200]


class Clock:
    """Stands still until it is moved."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TimedStages(Stages):
    """Move the clock by what the batches are said to take; the last of the times is that of all further ones."""

    def __init__(self, clock: Clock, *times_s: float) -> None:
        super().__init__()
        self._clock, self._times_s = clock, list(times_s)

    async def run(self, orders: Sequence[Order]) -> list[Answered | Exception]:
        self._clock.now_s += self._times_s.pop(0) if len(self._times_s) > 1 else self._times_s[0]
        return await super().run(orders)


async def test_one_slow_batch_does_not_shut_the_door_for_ever(models: Path) -> None:
    clock = Clock()
    gateway = Gateway(AppSettings(models=str(models)), TimedStages(clock, 10.0, 0.001), clock=clock)
    await gateway.start()
    await gateway.catalog.stop()
    await ask(gateway, link="wifi")

    with pytest.raises(BudgetTooSmall):
        await ask(gateway, link="wifi", budget_ms=100)
    answers = []
    for _ in range(10):
        clock.now_s += 1.1
        answers.append(await ask(gateway, link="wifi", budget_ms=100))

    assert {answer.status for answer in answers} == {200}
    assert float(answers[0].headers["Duet-Predicted-Ms"]) > 5000
    assert float(answers[-1].headers["Duet-Predicted-Ms"]) < 100
    clock.now_s += 1.1
    with pytest.raises(BudgetTooSmall):
        await ask(gateway, link="slow-3g", budget_ms=100)


async def test_the_work_around_a_batch_is_learnt_and_predicted(models: Path, stages: Stages) -> None:
    class Ticking(Clock):
        """Takes a quarter of a millisecond to be read."""

        def __call__(self) -> float:
            self.now_s += 0.00025
            return super().__call__()

    gateway = Gateway(AppSettings(models=str(models)), stages, clock=Ticking())
    await gateway.start()
    await gateway.catalog.stop()

    off_ms = []
    for _ in range(300):
        told = (await ask(gateway, link="wifi")).headers
        predicted_ms = float(told["Duet-Predicted-Ms"]) - float(told["Duet-Network-Ms"])
        off_ms.append(float(told["Duet-Server-Ms"]) - predicted_ms)

    # what a batch costs is known after a few
    assert max(off_ms[10:20]) > 0.5
    assert max(map(abs, off_ms[-10:])) < 0.1


async def test_a_queue_that_is_too_long_for_the_budget_is_overload_and_not_a_small_budget(models: Path) -> None:
    clock = Clock()
    stages = TimedStages(clock, 0.020)
    gateway = Gateway(AppSettings(models=str(models), max_batch=1), stages, clock=clock)
    await gateway.start()
    await gateway.catalog.stop()
    link = {"down_kbps": 1e9, "up_kbps": 1e9, "rtt_ms": 0}
    await ask(gateway, link=link)
    asked = await filled(gateway, stages, link)

    # each takes 20 ms: two wait, and one runs
    with pytest.raises(Overloaded):
        await ask(gateway, link=link, budget_ms=50)
    with pytest.raises(BudgetTooSmall) as refusal:
        await ask(gateway, link=link, budget_ms=10)

    assert refusal.value.smallest_ms == 21
    stages.may_go_on.set()
    assert [answer.status for answer in await asyncio.gather(*asked)] == [200, 200, 200]


@pytest.mark.parametrize("sample", [[], ["nobody knows this"], [float("nan")], "text", {"a": 1}, None, [[1]]], ids=str)
async def test_a_bad_sample_never_reaches_the_queue(gateway: Gateway, stages: Stages, sample: object) -> None:
    with pytest.raises(InvalidSample):
        await ask(gateway, sample=sample)

    assert not stages.orders


async def test_an_unknown_model_is_told_the_known_ones(gateway: Gateway) -> None:
    with pytest.raises(UnknownModel) as refusal:
        await ask(gateway, model="films")

    assert refusal.value.known == ("tiny",)


async def test_the_verdict_of_the_stages_is_passed_on(gateway: Gateway, stages: Stages) -> None:
    stages.failure = NonFiniteParameters(model="tiny", version="v1")

    with pytest.raises(NonFiniteParameters):
        await ask(gateway)


async def test_ready_means_that_every_stage_answers(gateway: Gateway, stages: Stages) -> None:
    ready = await gateway.check()
    stages.failure = RuntimeError("gone")

    assert ready == {"tiny": "v1"}
    with pytest.raises(VersionNotReady):
        await gateway.check()


async def test_who_matters_more_is_let_in_when_others_are_refused(models: Path, stages: Stages) -> None:
    gateway = Gateway(AppSettings(models=str(models), max_queued=9, max_batch=1), stages)
    await gateway.start()
    await gateway.catalog.stop()
    stages.may_go_on.clear()
    priorities = ["low"] * 8 + ["normal"] * 3 + ["high"] * 2

    asked = [ask(gateway, budget_ms=10_000, link="wifi", priority=priority) for priority in priorities]
    tasks = [asyncio.create_task(each) for each in asked]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stages.may_go_on.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    refused = [priority for priority, end in zip(priorities, outcomes, strict=True) if isinstance(end, Overloaded)]
    assert refused == ["low", "normal", "high"]
