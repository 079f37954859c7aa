"""Requests that arrive at a rate, whether or not the server keeps up, each timed from when it was due.

A device whose request is lost (its connection breaks, or a 5xx other than 504) asks once more.
"""

import gc
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from loadtest.arrivals import arrivals
from loadtest.lean_client import Exchange, LeanClient

Outcome = Literal["in-time", "late", "refused", "failed"]
"""What became of a request. Late (also 504: the server says so itself) and refused (429 or 422) are answers by design;
failed is what was lost, and lost again when it was asked once more."""

Inspect = Callable[[int, Mapping[str, str], bytes], None]
"""Is shown status, headers by their names in small letters, and content of every answer."""

_IN_FLIGHT = 1000
_TOO_LATE = 504
_TIMES = re.compile(rb"\r\nduet-(server|predicted|network)-ms: *([0-9.]+)", re.IGNORECASE)


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


@dataclass
class OpenLoop:
    """A Poisson stream of requests to one address.

    Attributes:
        url: Where to post.
        bodies: What, in turn.
        budget_ms: Within which an answer is in time.
        rate: Requests a second at a time from the start.
        ready: Connections that are opened before it.
        started_s: When the last run started, by ``time.monotonic``.
        replies: What came back so far.
        dropped: Requests that were never sent, because too many were under way: the load generator was the limit.
    """

    url: str
    bodies: Sequence[bytes]
    budget_ms: float
    rate: Callable[[float], float]
    seed: int = 0
    ready: int = 0
    inspect: Inspect | None = None
    replies: list[Reply] = field(default_factory=list)
    dropped: int = 0
    started_s: float = math.nan
    _is_stopped: bool = False

    def run(self, seconds: float = math.inf) -> None:
        """Send for that long, or until ``stop``, then wait for what is under way."""
        gc.freeze()  # what has been imported is not to be looked through again while requests are timed
        parts = urlsplit(self.url)
        requests = [
            f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
            for body in self.bodies
        ]
        client = LeanClient(f"{parts.scheme}://{parts.netloc}", requests, told=self._ended)
        client.arrive(self._due(seconds), 0.0, most=_IN_FLIGHT, ready=self.ready, retry=_once_more)
        self.started_s = time.monotonic() - (time.perf_counter() - client.started_s)
        self.dropped += len(client.dropped_s)

    def stop(self) -> None:
        """Send no more; may be called from another thread."""
        self._is_stopped = True

    def _due(self, seconds: float) -> Iterator[float]:
        for due_s in arrivals(self.rate, random.Random(self.seed), seconds):
            if self._is_stopped:
                return
            yield due_s

    def _ended(self, exchange: Exchange) -> None:
        head, _, content = exchange.reply.partition(b"\r\n\r\n")
        if self.inspect is not None and exchange.status:
            lines = (line.split(b":", 1) for line in head.split(b"\r\n")[1:])
            headers = {name.decode("latin-1").lower(): value.strip().decode("latin-1") for name, value in lines}
            self.inspect(exchange.status, headers, content)
        times_ms = {name.lower(): float(value) for name, value in _TIMES.findall(head)}
        server_ms = times_ms.get(b"server", math.nan)
        predicted_ms = times_ms.get(b"predicted", math.nan) - times_ms.get(b"network", math.nan)
        latency_ms = (exchange.received_s - exchange.due_s) * 1000
        self.replies.append(
            Reply(
                exchange.due_s,
                latency_ms,
                self._outcome(exchange.status, latency_ms),
                exchange.status,
                exchange.retries > 0,
                (exchange.sent_s - exchange.due_s) * 1000,
                server_ms=server_ms,
                predicted_ms=predicted_ms,
            )
        )

    def _outcome(self, status: int, latency_ms: float) -> Outcome:
        if status in (200, 204):
            return "in-time" if latency_ms <= self.budget_ms else "late"
        if _is_lost(status):
            return "failed"
        return "late" if status == _TOO_LATE else "refused"


def _once_more(number: int, status: int, retries: int, retry_after_s: float) -> float | None:
    return 0.0 if _is_lost(status) and not retries else None


def _is_lost(status: int) -> bool:
    return status == 0 or (status >= 500 and status != _TOO_LATE)


def count(replies: Sequence[Reply]) -> Counter[str]:
    """Count the outcomes."""
    return Counter(reply.outcome for reply in replies)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of them do not exceed; NaN of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan
