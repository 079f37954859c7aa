"""OpenTelemetry traces, made after the fact: a request that is kept becomes spans when it is over, on another thread.

The stages report their times with every answer, so nothing has to be traced while a request is under way. That lets us
decide at the end: a share of all requests is kept, and every one whose budget ran out.

    request                          the whole time in the gateway
    ├── plan
    ├── queue
    └── encode, generate, compose    of the whole batch, one after the other

Durations are measured. Where a stage begins is not: what lies between the stages in split placement is shown after
them.
"""

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from deployments.telemetry import TRACEPARENT_CHARACTERS, RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

KEPT_A_SECOND = 256
"""Most requests that are kept until the next export, a second later; further ones are lost, and counted."""

EXPORT_EVERY_S = 1.0

_Attributes: TypeAlias = Mapping[str, str | int | float]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_NS_A_MS = 1_000_000
_STOP_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that is kept: its record, and when it ended, in nanoseconds of Unix time."""

    record: RequestRecord
    ended_ns: int


class Tracing:
    """Keeps some finished requests and exports them once a second, from a thread of its own.

    What is kept is bounded, whatever callers ask for and however many budgets run out: tracing must not take the time
    that the requests need.
    """

    def __init__(self, exporter: "SpanExporter", *, ratio: float, draw: Callable[[], float] = random.random) -> None:
        """Start the thread.

        Args:
            exporter: Where spans go.
            ratio: Share of requests to keep, besides those whose budget ran out and those that a caller traces.
            draw: Uniform from 0 to 1.
        """
        from opentelemetry.sdk.resources import Resource

        self._exporter, self._ratio, self._draw = exporter, ratio, draw
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come first
        self._resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "duet-serve")})
        self._kept: deque[Finished] = deque()
        self.dropped = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def finished(self, record: RequestRecord) -> None:
        """Keep the request if it is one to be kept."""
        if not (record.is_missed or self._is_sampled(record.origin.traceparent)):
            return
        if len(self._kept) >= KEPT_A_SECOND:
            self.dropped += 1
            return
        self._kept.append(Finished(record, time.time_ns()))

    def stop(self) -> None:
        """Export what is kept, as far as that is quick."""
        self._stopping.set()
        self._thread.join(_STOP_S)

    def _is_sampled(self, traceparent: str) -> bool:
        if len(traceparent) == TRACEPARENT_CHARACTERS:
            # the caller has decided: the last bit says so
            return traceparent[-1] in "13579bdf"
        return self._draw() < self._ratio

    def _run(self) -> None:
        while not self._stopping.wait(EXPORT_EVERY_S):
            self._export()
        self._export()
        self._exporter.shutdown()

    def _export(self) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        count = len(self._kept)
        spans = [span for _ in range(count) for span in spans_of(self._kept.popleft(), self._resource)]
        if not spans:
            return
        try:
            is_exported = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:
            # an exporter is somebody else's code, and serving goes on without it
            logger.exception("Traces of %d requests could not be exported", count)
            is_exported = False
        self.dropped += 0 if is_exported else count


def tracing_of(environment: Mapping[str, str], *, ratio: float, file: str | None) -> Tracing | None:
    """Make what the operator asks for; nothing is built, and OpenTelemetry not even imported, where nobody asks.

    Args:
        environment: Of the process: ``OTEL_EXPORTER_OTLP_ENDPOINT`` and its like name a collector.
        ratio: Share of requests to keep.
        file: Where to append spans as JSON lines instead.

    Raises:
        ValueError: If that cannot be done, as ``check_tracing`` says.
        OSError: If the file cannot be written.
    """
    check_tracing(environment, file)
    if _collector(environment) is not None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        # reads its endpoint, headers, time-out and certificate from the environment by itself
        return Tracing(OTLPSpanExporter(), ratio=ratio)
    if file is None:
        return None
    from app.trace_file import JsonLines

    return Tracing(JsonLines(Path(file)), ratio=ratio)


def check_tracing(environment: Mapping[str, str], file: str | None) -> None:
    """Look whether traces can go where they are to go.

    Args:
        environment: As in ``tracing_of``.
        file: As in ``tracing_of``.

    Raises:
        ValueError: If two places are named, the folder of the file is not there, the collector's protocol is not ours,
            or its exporter is not installed.
    """
    endpoint = _collector(environment)
    if endpoint is not None and file is not None:
        raise ValueError(
            f"Expected one place for traces, got the file {file} and the collector {endpoint}. "
            f"Leave out the file, or unset {' and '.join(_ENDPOINTS)}."
        )
    if file is not None and (not Path(file).parent.is_dir() or Path(file).is_dir()):
        raise ValueError(f"Expected a file for traces in a folder that exists, got {file}. Make the folder first.")
    if endpoint is None:
        return
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        raise ValueError(
            f"Expected OTEL_EXPORTER_OTLP_PROTOCOL to be http/protobuf, got {protocol!r}. "
            "Unset it, and name the port of the collector that takes HTTP, 4318 by default."
        )
    if not _has_exporter():
        raise ValueError(
            f"Expected an exporter for the collector {endpoint}, got none. Install it with "
            f"pip install 'duet-serve[otlp]', or unset {' and '.join(_ENDPOINTS)}."
        )


def spans_of(finished: Finished, resource: "Resource") -> "list[ReadableSpan]":
    """Turn a finished request into its spans, the request itself first.

    Args:
        finished: What became of it, and when.
        resource: Who we are.
    """
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanKind, Status, StatusCode

    record, parent = finished.record, _caller(finished.record.origin.traceparent)
    started_ns = finished.ended_ns - round(record.server_ms * _NS_A_MS)
    root = _context(None if parent is None else parent.trace_id)
    spans = [
        ReadableSpan(
            "request",
            context=root,
            parent=parent,
            resource=resource,
            attributes=_attributes(record),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR, record.reason) if record.reason else Status(StatusCode.UNSET),
            start_time=started_ns,
            end_time=finished.ended_ns,
        )
    ]
    for name, duration_ms in _parts(record):
        ended_ns = started_ns + round(duration_ms * _NS_A_MS)
        spans.append(
            ReadableSpan(
                name,
                context=_context(root.trace_id),
                parent=root,
                resource=resource,
                start_time=started_ns,
                end_time=ended_ns,
            )
        )
        started_ns = ended_ns
    return spans


def _parts(record: RequestRecord) -> Iterator[tuple[str, float]]:
    if record.plan_ms:
        yield "plan", record.plan_ms
    if record.batch_size:
        times = record.times
        yield "queue", times.queue_ms
        yield "encode", times.encode_ms
        yield "generate", times.generate_ms
        yield "compose", times.compose_ms


def _attributes(record: RequestRecord) -> dict[str, str | int | float]:
    """Tell what is known; neither the device nor its sample."""
    told: dict[str, str | int | float] = {
        "duet.rung": record.rung,
        "duet.budget_ms": record.budget_ms,
        "duet.server_ms": record.server_ms,
        "duet.predicted_ms": record.predicted_ms,
        "duet.network_ms": record.network_ms,
        "duet.batch_size": record.batch_size,
        "duet.content_bytes": record.content_bytes,
        "duet.deadline_missed": record.is_missed,
    }
    texts = {
        "duet.model": record.model,
        "duet.version": record.version,
        "duet.plan": record.plan,
        "duet.request_id": record.origin.request_id,
        "error.type": record.reason,
    }
    return told | {name: text for name, text in texts.items() if text}


def _caller(traceparent: str) -> "SpanContext | None":
    """Read the span of who asked; None where the header is none of the W3C's form."""
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not traceparent:
        return None
    span = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": traceparent}))
    context = span.get_span_context()
    return context if context.is_valid else None


def _context(trace_id: int | None) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    # no id is zero
    trace_id = trace_id or random.getrandbits(128) or 1
    return SpanContext(
        trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )


def _collector(environment: Mapping[str, str]) -> str | None:
    """Find the address that the operator has named, unless OpenTelemetry is switched off."""
    is_off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    return next((environment[name] for name in _ENDPOINTS if environment.get(name)), None)


def _has_exporter() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False  # not even the packages around it
