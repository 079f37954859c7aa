"""Requests that arrive at a rate, whether or not the server keeps up, each timed from when it was due.

A device whose request is lost (its connection breaks, or a 5xx other than 504) asks once more.
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

Outcome = Literal["in-time", "late", "refused", "failed"]
"""What became of a request. Late (also 504: the server says so itself) and refused (429 or 422) are answers by design;
failed is what was lost, and lost again when it was asked once more."""

_IN_FLIGHT = 1000
_TOO_LATE = 504


@dataclass(frozen=True)
class Reply:
    """One request.

    Attributes:
        due_s: When it was to be sent, from the start.
        latency_ms: From then to its last byte, retry included.
        outcome: What became of it.
        status: The last status, or 0 where there was none.
        retried: Whether it was sent twice.
    """

    due_s: float
    latency_ms: float
    outcome: Outcome
    status: int
    retried: bool = False


@dataclass
class OpenLoop:
    """A Poisson stream of one request to one address.

    Attributes:
        url: Where to post.
        body: What.
        budget_ms: Within which an answer is in time.
        rate: Requests a second at a time from the start.
        replies: What came back so far.
        dropped: Requests that were never sent, because too many were under way: the load generator was the limit.
    """

    url: str
    body: dict[str, Any]
    budget_ms: float
    rate: Callable[[float], float]
    seed: int = 0
    replies: list[Reply] = field(default_factory=list)
    dropped: int = 0
    _is_stopped: bool = False

    def run(self, seconds: float = math.inf) -> None:
        """Send for that long, or until ``stop``, then wait for what is under way."""
        asyncio.run(self._run(seconds))

    def stop(self) -> None:
        """Send no more; may be called from another thread."""
        self._is_stopped = True

    async def _run(self, seconds: float) -> None:
        draws, due_s = random.Random(self.seed), 0.0
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=_IN_FLIGHT)
        async with httpx.AsyncClient(timeout=30, limits=limits) as client, asyncio.TaskGroup() as group:
            started_s = time.perf_counter()
            under_way: set[asyncio.Task[None]] = set()
            while (due_s := due_s + draws.expovariate(self.rate(due_s))) < seconds:
                await asyncio.sleep(started_s + due_s - time.perf_counter())
                if self._is_stopped:
                    return
                if len(under_way) >= _IN_FLIGHT:
                    self.dropped += 1
                    continue
                task = group.create_task(self._send(client, started_s, due_s))
                under_way.add(task)
                task.add_done_callback(under_way.discard)

    async def _send(self, client: httpx.AsyncClient, started_s: float, due_s: float) -> None:
        status = await self._status(client)
        retried = _is_lost(status)
        if retried:
            status = await self._status(client)
        latency_ms = (time.perf_counter() - started_s - due_s) * 1000
        self.replies.append(Reply(due_s, latency_ms, self._outcome(status, latency_ms), status, retried))

    async def _status(self, client: httpx.AsyncClient) -> int:
        try:
            return (await client.post(self.url, json=self.body)).status_code
        except httpx.HTTPError:
            return 0

    def _outcome(self, status: int, latency_ms: float) -> Outcome:
        if status in (200, 204):
            return "in-time" if latency_ms <= self.budget_ms else "late"
        if _is_lost(status):
            return "failed"
        return "late" if status == _TOO_LATE else "refused"


def _is_lost(status: int) -> bool:
    return status == 0 or (status >= 500 and status != _TOO_LATE)


def count(replies: Sequence[Reply]) -> Counter[str]:
    """Count the outcomes."""
    return Counter(reply.outcome for reply in replies)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of them do not exceed; NaN of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan
