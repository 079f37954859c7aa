"""A canary gets its share of the devices, moves nobody twice, and is sent back when it does worse than the others."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from app.catalog import Catalog
from app.gateway import Gateway
from app.settings import AppSettings
from deployments.orders import Answered, Order
from duet.protocol.budget import Link
from duet.protocol.errors import BudgetTooSmall, CorruptVersion, InvalidSample, NonFiniteParameters, VersionNotReady
from duet.registry import Registry
from tests.app.gateway_requests import Stages, ask
from tests.published_version import write_version

DEVICES = [f"phone-{number}" for number in range(400)]
FAILURE = NonFiniteParameters(model="tiny", version="v2")


class TwoVersions(Stages):
    """Answer every order, but those of the versions in ``failing`` with a failure; prepare what is not ``refused``."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[str, Exception] = {}
        self.refused: set[str] = set()
        self.prepared: list[str] = []
        self.may_prepare = asyncio.Event()
        self.may_prepare.set()
        self.preparing = asyncio.Event()

    async def prepare(self, model: str, version: str) -> None:
        self.prepared.append(version)
        self.preparing.set()
        await self.may_prepare.wait()
        if version in self.refused:
            raise CorruptVersion(path=f"{model}/{version}", reason="its golden output differs")

    async def run(self, orders: Sequence[Order]) -> list[Answered | Exception]:
        answers = await super().run(orders)
        return [self.failing.get(order.version, answer) for order, answer in zip(orders, answers, strict=True)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Version v1, which is pinned, and v2."""
    write_version(tmp_path, version="v1", seed=1)
    registry = Registry(tmp_path)
    registry.activate("tiny", "v1")
    write_version(tmp_path, version="v2", seed=2)
    return registry


async def started(registry: Registry, stages: Stages, **settings: object) -> Gateway:
    gateway = Gateway(AppSettings(models=str(registry.root), canary_min_requests=20, **settings), stages)
    await gateway.start()
    await gateway.catalog.stop()  # the tests look for changes themselves
    return gateway


def of_canary(catalog: Catalog) -> set[str]:
    return {device for device in DEVICES if catalog.served_to("tiny", device).published.version == "v2"}


async def answers(gateway: Gateway, devices: Sequence[str] = DEVICES) -> list[str]:
    """Ask for each device; return the version of its answer, or the code of what came instead."""
    told = []
    for device in devices:
        try:
            told.append((await ask(gateway, device=device, budget_ms=10_000)).headers["Duet-Model-Version"])
        except (NonFiniteParameters, VersionNotReady, InvalidSample) as error:
            told.append(error.code)
    return told


async def test_the_share_gets_the_canary_and_every_gateway_agrees_on_who_that_is(registry: Registry) -> None:
    registry.start_canary("tiny", "v2", 25)
    first, second = [await started(registry, TwoVersions()) for _ in range(2)]

    taken = of_canary(first.catalog)

    assert 60 <= len(taken) <= 140
    assert taken == of_canary(second.catalog)
    assert await answers(first) == ["v2" if device in taken else "v1" for device in DEVICES]


async def test_a_canary_begins_widens_and_passes_without_moving_a_device_back(registry: Registry) -> None:
    stages = TwoVersions()
    catalog = (await started(registry, stages)).catalog
    shares = [of_canary(catalog)]

    for percent in (10, 50):
        registry.start_canary("tiny", "v2", percent)
        stages.preparing.clear()
        stages.may_prepare.clear()
        looking = asyncio.create_task(catalog.refresh())
        await asyncio.wait_for(stages.preparing.wait(), 10)
        while_it_is_prepared = of_canary(catalog)
        stages.may_prepare.set()
        await looking
        assert while_it_is_prepared == shares[-1]
        shares.append(of_canary(catalog))
    registry.activate("tiny", "v2")
    await catalog.refresh()
    shares.append(of_canary(catalog))

    assert all(before < after for before, after in pairwise(shares))
    assert shares[-1] == set(DEVICES)
    assert catalog.canary("tiny") is None


async def test_rolling_back_by_hand_sends_the_canary_back(registry: Registry) -> None:
    registry.start_canary("tiny", "v2", 50)
    catalog = (await started(registry, TwoVersions())).catalog

    registry.rollback("tiny")
    await catalog.refresh()

    assert not of_canary(catalog)


async def test_a_canary_that_cannot_be_prepared_keeps_nobody_from_the_active_version(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.start_canary("tiny", "v2", 50)
    stages = TwoVersions()
    stages.refused.add("v2")

    catalog = (await started(registry, stages)).catalog
    refused = of_canary(catalog)
    for _ in range(6):
        await catalog.refresh()
    tries = stages.prepared.count("v2")
    stages.refused.clear()
    (registry.root / "tiny" / "note").mkdir()  # a change
    await catalog.refresh()

    assert not refused
    assert tries == 1 + 2  # at the start, and at looks 2 and 4
    assert of_canary(catalog)
    assert caplog.text.count("golden output differs") == 1


async def written(gateway: Gateway) -> None:
    await asyncio.gather(*gateway.catalog._writing)


async def test_a_canary_that_fails_is_sent_back_at_once_and_that_is_written_down(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.start_canary("tiny", "v2", 50)
    stages = TwoVersions()
    stages.failing["v2"] = FAILURE
    gateway = await started(registry, stages)

    told = await answers(gateway)
    await written(gateway)
    pin = registry.pin("tiny")
    await gateway.catalog.refresh()

    assert told.count("non_finite_parameters") == 20
    assert told[-1] == "v1"
    assert (pin.version, pin.canary, pin.ended.version) == ("v1", None, "v2")
    assert pin.ended.reason.startswith("20 of 20 requests (100.0%) failed or were late, against 0 of ")
    assert f"Canary v2 of model tiny is ended, v1 goes on: {pin.ended.reason}" in caplog.text
    assert not of_canary(gateway.catalog)


async def test_a_canary_that_failed_is_not_tried_again_until_somebody_says_so(registry: Registry) -> None:
    registry.start_canary("tiny", "v2", 50)
    stages = TwoVersions()
    stages.failing["v2"] = FAILURE
    gateway = await started(registry, stages)
    await answers(gateway)
    await written(gateway)

    write_version(registry.root, version="v3", seed=3)  # a change, so that the pin is read again
    await gateway.catalog.refresh()
    by_itself = of_canary(gateway.catalog)
    registry.start_canary("tiny", "v2", 50)
    await gateway.catalog.refresh()

    assert not by_itself
    assert of_canary(gateway.catalog)


async def test_a_repository_that_cannot_be_written_does_not_keep_a_canary_in_place(
    registry: Registry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.start_canary("tiny", "v2", 50)
    stages = TwoVersions()
    stages.failing["v2"] = FAILURE
    gateway = await started(registry, stages)
    before = (registry.root / "tiny" / "active").read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("duet.registry.repository.write_pin", refuse)
    await answers(gateway)
    await written(gateway)
    (registry.root / "tiny" / "note").mkdir()  # a change, so that the pin is read again
    await gateway.catalog.refresh()

    assert (registry.root / "tiny" / "active").read_bytes() == before
    assert not of_canary(gateway.catalog)
    assert "known to this gateway alone, until `duet models rollback tiny`: [Errno 30] Read-only" in caplog.text


async def test_what_fails_for_everybody_ends_no_canary(registry: Registry) -> None:
    registry.start_canary("tiny", "v2", 50)
    stages = TwoVersions()
    outage = VersionNotReady(model="tiny", version="v1")
    stages.failing = {"v1": outage, "v2": outage}
    gateway = await started(registry, stages)

    told = await answers(gateway)

    assert set(told) == {"version_not_ready"}
    assert of_canary(gateway.catalog)
    assert gateway.catalog.state("tiny").canary.counted.failures > 100


async def test_requests_that_are_wrong_are_held_against_no_version(registry: Registry) -> None:
    registry.start_canary("tiny", "v2", 50)
    gateway = await started(registry, TwoVersions())

    for device in of_canary(gateway.catalog):
        with pytest.raises(InvalidSample):
            await ask(gateway, device=device, sample=["nobody"])

    assert gateway.catalog.state("tiny").canary.counted.failures == 0


async def test_budgets_that_no_server_could_keep_are_held_against_no_version(registry: Registry) -> None:
    registry.start_canary("tiny", "v2", 50)
    gateway = await started(registry, TwoVersions())
    device = next(iter(of_canary(gateway.catalog)))

    # a byte a millisecond: the 64 bytes of `shared` arrive, factors do not; and 20 ms are enough for neither
    link = {"down_kbps": 8.0, "up_kbps": 1e6, "rtt_ms": 0.0}
    enough_ms = Link(**link).exchange_ms(request_bytes=100, response_bytes=64) + 3

    answer = await ask(gateway, device=device, link=link, budget_ms=enough_ms, accepts={"forms": ("factors", "shared")})
    with pytest.raises(BudgetTooSmall):
        await ask(gateway, device=device, link=link, budget_ms=20)
    counted = gateway.catalog.state("tiny").canary.counted

    assert answer.headers["Duet-Plan"] == "shared"
    assert (counted.requests, counted.failures) == (2, 0)


class Clock:
    """Moves when it is told to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class LateStages(TwoVersions):
    """Take 300 ms for what they answer."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    async def run(self, orders: Sequence[Order]) -> list[Answered | Exception]:
        self._clock.now_s += 0.3
        return await super().run(orders)


async def test_what_comes_late_or_is_refused_because_it_would_is_held_against_its_version(registry: Registry) -> None:
    registry.start_canary("tiny", "v2", 50)
    clock = Clock()
    gateway = Gateway(AppSettings(models=str(registry.root)), LateStages(clock), clock=clock)
    await gateway.start()
    await gateway.catalog.stop()
    device = next(iter(of_canary(gateway.catalog)))

    answer = await ask(gateway, device=device, budget_ms=200, link="wifi")
    with pytest.raises(BudgetTooSmall):
        await ask(gateway, device=device, budget_ms=200, link="wifi")
    shared = await ask(gateway, device=device, budget_ms=200, link="wifi", accepts={"forms": ("factors", "shared")})
    in_time = await ask(gateway, device=device, budget_ms=1000, link="wifi")

    assert [each.headers["Duet-Plan"] for each in (answer, shared)] == ["full-float32", "shared"]
    assert in_time.status == 200
    counted = gateway.catalog.state("tiny").canary.counted
    assert (counted.requests, counted.failures) == (4, 3)


async def test_the_manifest_and_the_device_model_are_those_of_the_version_of_a_device(registry: Registry) -> None:
    registry.start_canary("tiny", "v2", 50)
    catalog = (await started(registry, TwoVersions())).catalog
    device = next(iter(of_canary(catalog)))
    other = next(device for device in DEVICES if device not in of_canary(catalog))

    told = [
        (await catalog.version("tiny", version, device=name)).published.version
        for version, name in ((None, device), (None, other), (None, None), ("v2", other), ("v1", device))
    ]

    assert told == ["v2", "v1", "v1", "v2", "v1"]


async def test_two_models_have_two_canaries(registry: Registry) -> None:
    write_version(registry.root, "other", version="v1", seed=3)
    write_version(registry.root, "other", version="v2", seed=4)
    registry.activate("other", "v1")
    registry.start_canary("tiny", "v2", 50)
    catalog = (await started(registry, TwoVersions())).catalog

    assert {catalog.served_to("other", device).published.version for device in DEVICES} == {"v1"}
    assert [summary.canary and summary.canary.percent for summary in await catalog.summaries()] == [None, 50.0]
