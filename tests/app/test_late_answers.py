"""Answers that come late for reasons that no prediction knows leave room for fewer requests."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.gateway import Gateway
from app.settings import AppSettings
from deployments.orders import Answered, Order
from duet.protocol.errors import DeadlineExceeded, Overloaded
from tests.app.gateway_requests import Stages, ask

MOST, LEFT = 21, 16
"""Requests that fit at first, and after a window of late answers: a fifth fewer."""

BUDGET_MS = 200


class Neighboured(Stages):
    """Compute in no time; then a neighbour takes the core, and nobody is told of an answer for a while."""

    now_s = stall_s = 0.0

    def clock(self) -> float:
        return self.now_s

    async def run(self, orders: Sequence[Order]) -> list[Answered | Exception]:
        answers = await super().run(orders)
        # after the batch has ended, before the next turn of the loop
        asyncio.get_running_loop().call_soon(self._stall)
        return answers

    def _stall(self) -> None:
        self.now_s += self.stall_s


@pytest.fixture
async def stages() -> Neighboured:
    return Neighboured()


@pytest.fixture
async def gateway(models: Path, stages: Neighboured) -> Gateway:
    settings = AppSettings(models=str(models), max_queued=MOST - 1, max_batch=1)
    gateway = Gateway(settings, stages, clock=stages.clock)
    await gateway.start()
    await gateway.catalog.stop()
    return gateway


async def let_in(gateway: Gateway, stages: Stages) -> int:
    """How many of ``MOST`` requests that come at once find room."""
    stages.may_go_on.clear()
    stages.is_asked.clear()
    asked = [asyncio.create_task(ask(gateway, link="wifi", budget_ms=10_000, priority="high")) for _ in range(MOST)]
    async with asyncio.timeout(10):
        await stages.is_asked.wait()
    stages.may_go_on.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
    assert [answer.status for answer in outcomes if answer not in refused] == [200] * (MOST - len(refused))
    return MOST - len(refused)


@pytest.mark.parametrize(("stall_s", "room"), [(0.0, MOST), (0.3, LEFT)], ids=["in-time", "late"])
async def test_answers_that_were_late_leave_room_for_fewer(
    gateway: Gateway, stages: Neighboured, stall_s: float, room: int
) -> None:
    stages.stall_s = stall_s
    answers = [await ask(gateway, link="wifi", budget_ms=BUDGET_MS) for _ in range(MOST)]
    stages.stall_s = 0.0

    assert [float(answer.headers["Duet-Server-Ms"]) > BUDGET_MS for answer in answers] == [stall_s > 0] * MOST
    assert await let_in(gateway, stages) == room


async def test_deadlines_that_passed_leave_room_for_fewer(gateway: Gateway, stages: Neighboured) -> None:
    stages.may_go_on.clear()
    asked = [ask(gateway, link="wifi", budget_ms=BUDGET_MS, priority="high") for _ in range(MOST)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded] * MOST
    assert await let_in(gateway, stages) == LEFT


async def test_who_hangs_up_says_nothing_of_the_server(gateway: Gateway, stages: Neighboured) -> None:
    stages.may_go_on.clear()
    stages.is_asked.clear()
    asked = [asyncio.create_task(ask(gateway, link="wifi", budget_ms=10_000, priority="high")) for _ in range(MOST)]
    async with asyncio.timeout(10):
        await stages.is_asked.wait()
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)

    assert await let_in(gateway, stages) == MOST
