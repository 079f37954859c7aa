"""How many batches a gateway has on their way at once: as many as keep the replicas of the stages busy, and one more.

    batches = max(least, ceil(replicas of the stage that has most / gateways) + 1)

A replica computes one batch at a time, so more gateways than one share them. With fewer batches a replica that scaling
out has added would never get any; with many more, batches form before anybody can begin them, and stay as small as they
are.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence

Count = Callable[[], Awaitable[int]]
"""Counts the replicas of a deployment that run now."""

PATIENCE_S = 5.0
"""How long counting may take."""

logger = logging.getLogger(__name__)


class FanOut:
    """Follows the number of replicas. Belongs to one event loop."""

    def __init__(self, stages: Sequence[Count], gateways: Count, *, least: int) -> None:
        """Count nobody yet.

        Args:
            stages: Of each stage.
            gateways: Of the gateways that feed them, this one included.
            least: What it never falls below.
        """
        self._stages, self._gateways, self._least = tuple(stages), gateways, least
        self._task: asyncio.Task[None] | None = None

    async def batches(self) -> int:
        """Count, and tell how many batches one gateway should have on their way."""
        async with asyncio.timeout(PATIENCE_S):
            gateways, *stages = await asyncio.gather(*(count() for count in (self._gateways, *self._stages)))
        return max(self._least, math.ceil(max(stages) / max(1, gateways)) + 1)

    def follow(self, widen: Callable[[int], None], *, every_s: float) -> None:
        """Count again and again until ``stop``.

        Args:
            widen: Is told the number when it has changed.
            every_s: Between two counts.
        """
        self._task = asyncio.create_task(self._follow(widen, every_s))

    async def stop(self) -> None:
        """Count no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _follow(self, widen: Callable[[int], None], every_s: float) -> None:
        known, is_lost = self._least, False
        while True:
            try:
                batches = await self.batches()
                if batches != known:
                    logger.info("Batches on their way at once: %d, before %d", batches, known)
                    widen(batches)
                    known = batches
                is_lost = False
            except Exception:
                if not is_lost:
                    logger.exception("The replicas of the stages could not be counted; serving goes on as before")
                is_lost = True
            await asyncio.sleep(every_s)
