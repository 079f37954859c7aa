"""Requests that arrive at a rate, whether or not the server keeps up, each timed from when it was due.

A device whose request is lost (its connection breaks, or a 5xx other than 504) asks once more.
"""

import asyncio
import gc
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import aiohttp

from loadtest.arrivals import arrivals

Outcome = Literal["in-time", "late", "refused", "failed"]
"""What became of a request. Late (also 504: the server says so itself) and refused (429 or 422) are answers by design;
failed is what was lost, and lost again when it was asked once more."""

Inspect = Callable[[int, Mapping[str, str], bytes], None]
"""Is shown status, headers and content of every answer."""

_IN_FLIGHT = 1000
_TOO_LATE = 504
_PATIENCE_S = 30.0
_HEADERS = {"Content-Type": "application/json"}


class Reply(NamedTuple):
    """One request.

    Attributes:
        due_s: When it was to be sent, from the start.
        latency_ms: From then to its last byte, retry included.
        outcome: What became of it.
        status: The last status, or 0 where there was none.
        retried: Whether it was sent twice.
        behind_ms: How much after it was due it was sent: the load generator's own delay, a part of the latency.
        server_ms: What the server says that it took; NaN where it says nothing.
        predicted_ms: What its plan expected of the server; NaN likewise.
    """

    due_s: float
    latency_ms: float
    outcome: Outcome
    status: int
    retried: bool = False
    behind_ms: float = 0.0
    server_ms: float = math.nan
    predicted_ms: float = math.nan


class _Answer(NamedTuple):
    status: int
    server_ms: float = math.nan
    predicted_ms: float = math.nan


@dataclass
class OpenLoop:
    """A Poisson stream of requests to one address.

    Attributes:
        url: Where to post.
        bodies: What, in turn.
        budget_ms: Within which an answer is in time.
        rate: Requests a second at a time from the start.
        replies: What came back so far.
        dropped: Requests that were never sent, because too many were under way: the load generator was the limit.
    """

    url: str
    bodies: Sequence[bytes]
    budget_ms: float
    rate: Callable[[float], float]
    seed: int = 0
    inspect: Inspect | None = None
    replies: list[Reply] = field(default_factory=list)
    dropped: int = 0
    _is_stopped: bool = False

    def run(self, seconds: float = math.inf) -> None:
        """Send for that long, or until ``stop``, then wait for what is under way."""
        gc.freeze()  # what has been imported is not to be looked through again while requests are timed
        asyncio.run(self._run(seconds))

    def stop(self) -> None:
        """Send no more; may be called from another thread."""
        self._is_stopped = True

    async def _run(self, seconds: float) -> None:
        draws, number = random.Random(self.seed), 0
        connector = aiohttp.TCPConnector(limit=0)
        timeout, no_cookies = aiohttp.ClientTimeout(_PATIENCE_S), aiohttp.DummyCookieJar()
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=no_cookies) as client,
            asyncio.TaskGroup() as group,
        ):
            started_s = time.perf_counter()
            under_way: set[asyncio.Task[None]] = set()
            for due_s in arrivals(self.rate, draws, seconds):
                await asyncio.sleep(started_s + due_s - time.perf_counter())
                if self._is_stopped:
                    return
                if len(under_way) >= _IN_FLIGHT:
                    self.dropped += 1
                    continue
                task = group.create_task(self._send(client, self.bodies[number % len(self.bodies)], started_s, due_s))
                number += 1
                under_way.add(task)
                task.add_done_callback(under_way.discard)

    async def _send(self, client: aiohttp.ClientSession, body: bytes, started_s: float, due_s: float) -> None:
        behind_ms = (time.perf_counter() - started_s - due_s) * 1000
        answer = await self._answer(client, body)
        retried = _is_lost(answer.status)
        if retried:
            answer = await self._answer(client, body)
        latency_ms = (time.perf_counter() - started_s - due_s) * 1000
        outcome = self._outcome(answer.status, latency_ms)
        status, server_ms, predicted_ms = answer
        self.replies.append(
            Reply(
                due_s, latency_ms, outcome, status, retried, behind_ms, server_ms=server_ms, predicted_ms=predicted_ms
            )
        )

    async def _answer(self, client: aiohttp.ClientSession, body: bytes) -> _Answer:
        try:
            async with client.post(self.url, data=body, headers=_HEADERS) as answer:
                content, headers = await answer.read(), answer.headers
        except (aiohttp.ClientError, TimeoutError):
            return _Answer(0)
        if self.inspect is not None:
            self.inspect(answer.status, headers, content)
        if "Duet-Server-Ms" not in headers:
            return _Answer(answer.status)
        network_ms = float(headers["Duet-Network-Ms"])
        return _Answer(
            answer.status, float(headers["Duet-Server-Ms"]), float(headers["Duet-Predicted-Ms"]) - network_ms
        )

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
