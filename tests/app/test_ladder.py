"""Under pressure the gateway goes down a ladder: keep what is held, the shared parameters, and only then a refusal."""

import asyncio
from pathlib import Path

import pytest

from app.builder import _colocated
from app.gateway import KEEP, Gateway
from app.settings import AppSettings
from duet.protocol.errors import BudgetTooSmall, Overloaded
from duet.protocol.package import ParameterPackage
from duet.registry import PublishedVersion
from tests.app.gateway_requests import Stages, ask, filled, held
from tests.published_version import TABLE

SHARED_TOO = {"forms": ("factors", "shared")}
# a byte down takes a millisecond: 704 for what precedes a package and the package of shared parameters
THIN = {"down_kbps": 8, "up_kbps": 1e6, "rtt_ms": 0}


async def test_shared_parameters_are_the_last_rung_for_those_who_accept_them(
    gateway: Gateway, stages: Stages, published: PublishedVersion
) -> None:
    shared = await ask(gateway, link=THIN, budget_ms=720, accepts=SHARED_TOO)

    package = ParameterPackage.decode(shared.content, TABLE, version=published.digest)
    assert (shared.status, shared.headers["Duet-Plan"]) == (200, "shared")
    assert shared.headers["Duet-Tag"] == package.tag.hex()
    assert not stages.orders
    with pytest.raises(BudgetTooSmall):
        await ask(gateway, link=THIN, budget_ms=720, accepts={"forms": ("factors",)})
    again = await ask(gateway, link=THIN, budget_ms=720, accepts=SHARED_TOO, current=held(shared))
    assert (again.status, again.headers["Duet-Plan"]) == (204, KEEP)


async def test_shared_parameters_are_never_preferred_to_generated_ones_that_fit(gateway: Gateway) -> None:
    answer = await ask(gateway, link="wifi", accepts=SHARED_TOO)

    assert answer.headers["Duet-Plan"] == "factors-r3-float32"


async def test_the_smallest_budget_of_who_accepts_shared_parameters_is_enough_for_them(gateway: Gateway) -> None:
    with pytest.raises(BudgetTooSmall) as refusal:
        await ask(gateway, link=THIN, budget_ms=100, accepts=SHARED_TOO)

    answer = await ask(gateway, link=THIN, budget_ms=refusal.value.smallest_ms, accepts=SHARED_TOO)
    assert answer.headers["Duet-Plan"] == "shared"


async def test_the_package_of_shared_parameters_is_the_one_that_the_stages_make(
    gateway: Gateway, models: Path, stages: Stages
) -> None:
    rung = await ask(gateway, link=THIN, budget_ms=720, accepts=SHARED_TOO)
    settings = AppSettings(models=str(models))
    whole = Gateway(settings, _colocated(settings))
    await whole.start()

    made = await ask(whole, link="wifi", budget_ms=10_000, accepts={"forms": ("shared",)})
    await whole.stop()

    assert rung.content == made.content


async def test_a_full_queue_leaves_the_rungs_that_need_no_computing(gateway: Gateway, stages: Stages) -> None:
    first = await ask(gateway, link="wifi", budget_ms=10_000)
    stages.orders.clear()
    asked = await filled(gateway, stages)

    # held, but better ones would be made if there were room
    worse = held(first) | {
        "tag": (await ask(gateway, link=THIN, budget_ms=720, accepts=SHARED_TOO)).headers["Duet-Tag"]
    }
    kept = await ask(gateway, link="wifi", budget_ms=10_000, accepts=SHARED_TOO, current=worse)
    shared = await ask(gateway, link="wifi", budget_ms=10_000, accepts=SHARED_TOO)

    assert (kept.status, shared.headers["Duet-Plan"]) == (204, "shared")
    with pytest.raises(Overloaded):
        await ask(gateway, link="wifi", budget_ms=10_000)
    stages.may_go_on.set()
    assert [answer.status for answer in await asyncio.gather(*asked)] == [200, 200, 200]
