"""Stages that answer without computing, and requests to a gateway in front of them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from app.gateway import Gateway, GatewayAnswer
from app.offers import PACKAGE
from app.schemas import ParametersRequest
from deployments.orders import Answered, Order
from deployments.telemetry import StageTimes
from tests.published_version import ITEM_IDS

SAMPLE = list(ITEM_IDS[:3])


class Stages:
    """Answer every order with its tag; wait, fail or refuse where they are told to."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.is_asked = asyncio.Event()
        self.failure: Exception | None = None
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def prepare(self, model: str, version: str) -> None:
        pass

    async def check(self) -> None:
        await self.may_go_on.wait()
        if self.failure is not None:
            raise self.failure

    def run_now(self, orders: Sequence[Order]) -> None:
        """Take its time over every batch."""

    async def run(self, orders: Sequence[Order]) -> list[Answered | Exception]:
        self.orders += orders
        self.is_asked.set()
        await self.may_go_on.wait()
        return [self.failure or Answered(order.tag, StageTimes(0, 1, 2, 3)) for order in orders]


async def ask(
    gateway: Gateway, media_type: str = PACKAGE, model: str = "tiny", upload_bytes: int = 100, **fields: Any
) -> GatewayAnswer:
    request = ParametersRequest.model_validate({"device": "phone", "sample": SAMPLE} | fields)
    return await gateway.parameters(model, request, media_type=media_type, upload_bytes=upload_bytes)


async def filled(gateway: Gateway, stages: Stages, link: object = "wifi") -> list["asyncio.Task[GatewayAnswer]"]:
    """Hold the stages up with one of three requests; a gateway of batches of one has two more in its queue then."""
    stages.may_go_on.clear()
    stages.is_asked.clear()
    asked = [ask(gateway, link=link, budget_ms=10_000, sample=SAMPLE[:1]) for _ in range(3)]
    tasks = [asyncio.create_task(each) for each in asked]
    async with asyncio.timeout(10):
        await stages.is_asked.wait()
    return tasks


def held(answer: GatewayAnswer) -> dict[str, object]:
    """What a device that has applied an answer says it holds."""
    return {"version": answer.headers["Duet-Version"], "tag": answer.headers["Duet-Tag"], "age_s": 1.5}
