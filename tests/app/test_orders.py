"""What the stages learn of a request besides its order: its id, its time, and that its device has hung up."""

import asyncio

import pytest

from app.gateway import Gateway
from app.offers import PACKAGE
from app.schemas import ParametersRequest
from deployments.telemetry import Origin
from duet.protocol.errors import DeadlineExceeded
from tests.app.gateway_requests import SAMPLE, Stages, ask


async def test_who_was_left_out_by_a_stage_is_told_what_an_expired_request_is_told(
    gateway: Gateway, stages: Stages
) -> None:
    stages.failure = TimeoutError("expired")

    with pytest.raises(DeadlineExceeded) as late:
        await ask(gateway, link="wifi", budget_ms=10_000)

    assert late.value.budget_ms == 10_000


async def test_stages_may_know_that_a_device_has_hung_up(gateway: Gateway, stages: Stages) -> None:
    stages.may_go_on.clear()
    asked = asyncio.create_task(ask(gateway, link="wifi", budget_ms=10_000))
    async with asyncio.timeout(10):
        await stages.is_asked.wait()
    (order,) = stages.orders
    was_wanted = order.is_wanted

    asked.cancel()
    await asyncio.wait([asked])

    assert (was_wanted, order.is_wanted) == (True, False)


async def test_an_order_carries_the_id_of_its_request(gateway: Gateway, stages: Stages) -> None:
    request = ParametersRequest.model_validate({"device": "phone", "sample": SAMPLE, "link": "wifi"})

    await gateway.parameters("tiny", request, media_type=PACKAGE, upload_bytes=100, origin=Origin("r-1"))

    assert [order.request_id for order in stages.orders] == ["r-1"]
