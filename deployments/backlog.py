"""What waits for a stage's one worker thread, what it costs, and whether the worker still moves.

    predicted wait = what is left of the running batch + the predicted cost of every waiting one

The costs are learnt from the batches that ran (``compute_estimate.py``). The same numbers answer two questions: how
many replicas the stage needs (``autoscaling.py``), and whether this one is healthy.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deployments.compute_estimate import ComputeEstimate
from duet.protocol.errors import DuetError

WAIT, LOAD, BUSY, QUEUE = "predicted_wait_ms", "load_fraction", "busy_fraction", "queue_length"
"""What a stage reports, by name. A worker of small batches is busy long before it is loaded: the load is the part of
the time that the same devices would have taken in batches as large as the largest so far."""

_QUANTILE = 0.95
_ARRIVALS_KEPT = 1024
_BATCHES_KEPT = 50
_BATCHES_TO_JUDGE = 20
_LEAST_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """One batch on its way through the worker."""

    number: int
    size: int


class Backlog:
    """The batches of one worker, from their arrival to their end. May be called from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty.

        Args:
            clock: Seconds.
        """
        self._clock, self._lock = clock, threading.Lock()
        self._estimate = ComputeEstimate()
        self._waiting: dict[int, int] = {}
        self._running: tuple[int, float] | None = None  # size, since when
        self._arrivals = 0
        self._waits_ms: deque[float] = deque(maxlen=_ARRIVALS_KEPT)
        self._elapsed_s: deque[float] = deque(maxlen=_BATCHES_KEPT)
        self._failures: deque[bool] = deque(maxlen=_BATCHES_KEPT)
        self._moved_s = self._reported_s = self._ended_s = clock()
        self._busy_s = 0.0
        self._devices, self._largest = 0, 1

    def arrive(self, size: int) -> Ticket:
        """Note a batch of ``size`` that begins when the worker is free."""
        with self._lock:
            self._waits_ms.append(self._wait_ms())
            if self._running is None and not self._waiting:
                self._moved_s = self._clock()
            self._arrivals += 1
            self._waiting[self._arrivals] = size
            return Ticket(self._arrivals, size)

    def leave(self, ticket: Ticket) -> None:
        """Forget a batch that will not begin, because nobody waits for it any more; one that has begun goes on."""
        with self._lock:
            self._waiting.pop(ticket.number, None)

    @contextmanager
    def running(self, ticket: Ticket) -> Iterator[None]:
        """Note that the batch runs on the worker; an error that is none of ours counts against its health."""
        with self._lock:
            # its caller may have left at this very moment
            self._waiting.pop(ticket.number, None)
            started_s = self._moved_s = self._clock()
            self._running = (ticket.size, started_s)
        failed = True
        try:
            yield
            failed = False
        except DuetError:
            # a version that cannot be served is no better after a restart
            failed = False
            raise
        finally:
            with self._lock:
                self._end(ticket.size, started_s, failed)

    def report(self) -> dict[str, float]:
        """Sum up the time since the last report: 95th percentile of the wait, load and busy fraction, who waits now."""
        with self._lock:
            now_s = self._clock()
            since_s, self._reported_s = self._reported_s, now_s
            busy_s, self._busy_s = self._busy_s, 0.0
            load_s = self._devices * self._estimate.predict_ms(self._largest) / self._largest / 1000
            self._devices = 0
            if self._running is not None:
                busy_s += now_s - self._running[1]  # one that began before the last report fills the time since
            waits_ms = sorted([*self._waits_ms, self._wait_ms()])
            self._waits_ms.clear()
            elapsed_s = now_s - since_s
            return {
                WAIT: waits_ms[math.ceil(_QUANTILE * len(waits_ms)) - 1],
                LOAD: min(1.0, load_s / elapsed_s) if elapsed_s > 0 else 0.0,
                BUSY: min(1.0, busy_s / elapsed_s) if elapsed_s > 0 else 0.0,
                QUEUE: float(len(self._waiting)),
            }

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        with self._lock:
            return self._running is None and not self._waiting

    def check(self) -> None:
        """Judge the worker by what it did with its batches.

        Raises:
            RuntimeError: If it has not moved for twice its longest batch, or most of its last batches failed.
        """
        with self._lock:
            patience_s = max(_LEAST_PATIENCE_S, 2 * max(self._elapsed_s, default=0.0))
            silence_s = self._clock() - self._moved_s
            if (self._running is not None or self._waiting) and silence_s > patience_s:
                raise RuntimeError(
                    f"Expected the worker to begin or end a batch within {patience_s:.1f} s, got {silence_s:.1f} s of "
                    f"silence with {len(self._waiting)} waiting. The replica is to be restarted."
                )
            failures = sum(self._failures)
            if len(self._failures) >= _BATCHES_TO_JUDGE and 2 * failures > len(self._failures):
                raise RuntimeError(
                    f"Expected most of the last {len(self._failures)} batches to succeed, got {failures} failures. "
                    "The replica is to be restarted; its log has their reasons."
                )

    def _wait_ms(self) -> float:
        wait_ms = sum(self._estimate.predict_ms(size) for size in self._waiting.values())
        if self._running is not None:
            size, since_s = self._running
            wait_ms += max(0.0, self._estimate.predict_ms(size) - (self._clock() - since_s) * 1000)
        return wait_ms

    def _end(self, size: int, started_s: float, failed: bool) -> None:
        now_s = self._clock()
        self._running, self._moved_s = None, now_s
        self._busy_s += now_s - max(started_s, self._reported_s)
        self._elapsed_s.append(now_s - started_s)
        self._failures.append(failed)
        self._devices += size
        self._largest = max(self._largest, size)
        silence_s, self._ended_s = max(0.0, started_s - self._ended_s), now_s
        self._estimate.observe(size, (now_s - started_s) * 1000, silence_s=silence_s)
