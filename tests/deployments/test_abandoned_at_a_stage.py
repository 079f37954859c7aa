"""In split placement a batch that nobody waits for is cancelled where it is."""

import asyncio

import pytest

from deployments.pipeline import SplitPipeline
from tests.deployments.test_pipeline import DyingComposer, InProcessHandle, QuietStage, order


class HeldStage:
    """Holds every batch until it is cancelled."""

    def __init__(self) -> None:
        self.began, self.cancelled = asyncio.Event(), asyncio.Event()

    async def generate(self, *arguments: object, **options: object) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def test_a_batch_that_is_cancelled_is_cancelled_at_the_stage_that_has_it() -> None:
    held = HeldStage()
    pipeline = SplitPipeline(*map(InProcessHandle, (QuietStage(), held, DyingComposer())))
    running = asyncio.create_task(pipeline.run([order(0)]))
    await held.began.wait()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    async with asyncio.timeout(5):
        await held.cancelled.wait()
