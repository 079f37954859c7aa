"""What the gateway tells about its requests: one record a request, into metrics, traces and the log."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Protocol

from app.settings import AppSettings
from app.tracing import Tracing, tracing_of
from deployments.metrics import UNKNOWN, Metrics, Sample
from deployments.orders import Order
from deployments.refusal_log import RefusalLog
from deployments.telemetry import Origin, RequestRecord
from duet.protocol.errors import DuetError

PUBLISH_EVERY_S = 1.0
"""How often the metrics are handed to whoever exports them."""

NO_ORIGIN = Origin()

_CANCELLED, _INTERNAL = "cancelled", "internal_error"


logger = logging.getLogger(__name__)


class Publisher(Protocol):
    """Takes all values at once; called on a thread of its own."""

    def publish(self, samples: Iterable[Sample]) -> None:
        """Replace what was published before."""


class Pressure(Protocol):
    """What of the gateway is looked at now and then rather than counted."""

    @property
    def queue_length(self) -> int:
        """Requests that wait for a batch."""

    @property
    def predicted_wait_ms(self) -> float:
        """How long a request that arrives now would wait."""

    @property
    def active_versions(self) -> dict[str, str]:
        """The active version of every model."""


class Telemetry:
    """Belongs to one event loop. Without ``start`` it counts, and publishes nothing."""

    def __init__(
        self,
        *,
        tracing: Tracing | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Start from zero.

        Args:
            tracing: Where finished requests go to become traces; none by default.
            clock: Seconds; the gateway's.
            wall_clock: Seconds of Unix time.
        """
        self.metrics, self._tracing = Metrics(), tracing
        self._clock, self._wall_clock = clock, wall_clock
        self._refusals = RefusalLog(logger, clock=clock)
        self._publishing: asyncio.Task[None] | None = None
        self.metrics.started_s.set(value=wall_clock())

    @classmethod
    def of(cls, settings: AppSettings) -> "Telemetry":
        """Make what the operator has set, in the settings and in the environment of OpenTelemetry.

        Raises:
            ValueError: If traces cannot go where they say.
            OSError: If the file of traces cannot be written.
        """
        return cls(tracing=tracing_of(os.environ, ratio=settings.trace_ratio, file=settings.trace_file))

    def request(self, budget_ms: float, origin: Origin, arrived_s: float | None = None) -> "Watch":
        """Watch one request: ``with telemetry.request(...) as record: ...``.

        Args:
            budget_ms: What the device allows.
            origin: Who asks.
            arrived_s: When it was there, on the clock; now by default.
        """
        return Watch(self, RequestRecord(budget_ms, origin, self._clock() if arrived_s is None else arrived_s))

    def formed(self, orders: Sequence[Order]) -> None:
        """Count a batch."""
        self.metrics.batch_size.observe(orders[0].model, value=len(orders))

    def finish(self, record: RequestRecord, error: BaseException | None) -> None:
        """Close a record and tell everybody."""
        record.server_ms = (self._clock() - record.started_s) * 1000
        if error is not None:
            record.reason = _reason(error)
            self._refusals.count(record.reason)
        self.metrics.finished(record)
        if self._tracing is not None:
            self._tracing.finished(record)

    def refused(self, error: DuetError) -> None:
        """Count a request that was refused before anything was known of it: it is no part of any time or share."""
        self.metrics.requests.add(UNKNOWN, UNKNOWN, "refused")
        self.metrics.refusals.add(UNKNOWN, error.code)
        self._refusals.count(error.code)

    def start(self, pressure: Pressure, publisher: Publisher) -> None:
        """Publish once a second until ``stop``.

        Args:
            pressure: What to look at each time.
            publisher: Who exports.
        """
        self._publishing = asyncio.create_task(self._publish_forever(pressure, publisher))

    async def stop(self) -> None:
        """Stop publishing, and export the traces that are left."""
        if self._publishing is not None:
            self._publishing.cancel()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.stop)

    def look(self, pressure: Pressure) -> None:
        """Read what is not counted."""
        metrics = self.metrics
        metrics.queue_length.set(value=pressure.queue_length)
        metrics.predicted_wait_ms.set(value=pressure.predicted_wait_ms)
        metrics.active.reset()
        for model, version in pressure.active_versions.items():
            metrics.active.set(model, version, value=1)
        metrics.dropped_traces.set(value=0 if self._tracing is None else self._tracing.dropped)
        metrics.read_s.set(value=self._wall_clock())
        self._refusals.tell()

    async def _publish_forever(self, pressure: Pressure, publisher: Publisher) -> None:
        while True:
            try:
                self.look(pressure)
                await asyncio.to_thread(publisher.publish, self.metrics.samples())
            except Exception:
                logger.exception("Metrics could not be published; serving goes on")
            await asyncio.sleep(PUBLISH_EVERY_S)


class Watch:
    """The time between a request and its answer, or its failure."""

    __slots__ = ("_record", "_telemetry")

    def __init__(self, telemetry: Telemetry, record: RequestRecord) -> None:
        self._telemetry, self._record = telemetry, record

    def __enter__(self) -> RequestRecord:
        return self._record

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._telemetry.finish(self._record, error)


def _reason(error: BaseException) -> str:
    if isinstance(error, DuetError):
        return error.code
    return _CANCELLED if isinstance(error, asyncio.CancelledError) else _INTERNAL
