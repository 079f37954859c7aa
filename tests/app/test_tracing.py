"""Traces are made from finished requests: a share of them, and every one whose budget ran out."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from app.gateway import Gateway
from app.offers import PACKAGE
from app.schemas import ParametersRequest
from app.settings import AppSettings
from app.telemetry import Telemetry
from app.trace_file import JsonLines
from app.tracing import KEPT_A_SECOND, Tracing, tracing_of
from deployments.telemetry import Origin, RequestRecord, StageTimes
from tests.app.gateway_requests import SAMPLE, Stages

ROOT = Path(__file__).resolve().parents[2]
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARTS = ["plan", "queue", "encode", "generate", "compose"]


def record(traceparent: str = "", **fields: object) -> RequestRecord:
    """A generated answer in time, or what the fields make of it."""
    known = {
        "model": "demo",
        "version": "v1",
        "plan": "factors-r4-int8",
        "network_ms": 30.0,
        "plan_ms": 0.5,
        "batch_size": 3,
        "times": StageTimes(1.0, 2.0, 3.0, 0.5),
        "server_ms": 8.0,
    }
    return RequestRecord(50.0, Origin("id-of-request", traceparent), 0.0, **{**known, **fields})


def traced(*records: RequestRecord, ratio: float = 0.0, draw: float = 0.5) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter, ratio=ratio, draw=lambda: draw)
    for each in records:
        tracing.finished(each)
    tracing.stop()
    return list(exporter.get_finished_spans())


def test_a_sampled_request_is_a_span_with_its_parts_one_after_the_other() -> None:
    root, *parts = traced(record(), ratio=1.0)

    assert [root.name, *[part.name for part in parts]] == ["request", *PARTS]
    durations_ms = [(part.end_time - part.start_time) / 1e6 for part in parts]
    assert durations_ms == pytest.approx([0.5, 1.0, 2.0, 3.0, 0.5])
    assert (root.end_time - root.start_time) / 1e6 == pytest.approx(8.0)
    assert [part.start_time for part in parts] == [root.start_time, *[part.end_time for part in parts[:-1]]]
    assert {part.parent.span_id for part in parts} == {root.context.span_id}
    assert {part.context.trace_id for part in parts} == {root.context.trace_id}
    assert len({span.context.span_id for span in (root, *parts)}) == 6
    assert root.parent is None


@pytest.mark.parametrize(("draw", "count"), [(0.009, 1), (0.01, 0), (0.9, 0)])
def test_the_ratio_is_the_share_that_is_kept(draw: float, count: int) -> None:
    assert len([span for span in traced(record(), ratio=0.01, draw=draw) if span.name == "request"]) == count


@pytest.mark.parametrize(
    "missed",
    [record(server_ms=20.5), record(reason="deadline_exceeded", batch_size=0, server_ms=20.0)],
    ids=["late", "none"],
)
def test_a_missed_deadline_is_always_kept(missed: RequestRecord) -> None:
    root = traced(missed, ratio=0.0)[0]

    assert root.attributes["duet.deadline_missed"] is True


def test_a_refusal_is_an_error_and_has_no_stages() -> None:
    spans = traced(record(reason="overloaded", batch_size=0, plan_ms=0.0), ratio=1.0)

    assert [span.name for span in spans] == ["request"]
    assert spans[0].status.status_code is StatusCode.ERROR
    assert spans[0].attributes["error.type"] == "overloaded"


@pytest.mark.parametrize(("flags", "is_kept"), [("01", True), ("00", False), ("03", True)])
def test_the_trace_of_a_caller_is_continued_if_it_is_sampled(flags: str, is_kept: bool) -> None:
    spans = traced(record(f"00-{TRACE}-{CALLER}-{flags}"), ratio=0.0)

    assert bool(spans) == is_kept
    for span in spans:
        assert f"{span.context.trace_id:032x}" == TRACE
    assert not spans or f"{spans[0].parent.span_id:016x}" == CALLER


@pytest.mark.parametrize(
    "header", ["", "nonsense", f"00-{'0' * 32}-{CALLER}-01", f"00-{'x' * 32}-{CALLER}-01", "é" * 55, f"00-{TRACE}-"]
)
def test_a_header_of_another_form_begins_a_trace_of_its_own(header: str) -> None:
    root = traced(record(header, server_ms=99.0))[0]

    assert root.parent is None
    assert root.context.trace_id


def test_neither_device_nor_sample_is_told() -> None:
    names = {name for span in traced(record(), ratio=1.0) for name in span.attributes or {}}

    assert not [name for name in names if "device" in name or "sample" in name]
    assert {"duet.model", "duet.version", "duet.plan", "duet.budget_ms", "duet.request_id", "duet.batch_size"} <= names


class Slow(SpanExporter):
    """Takes nothing until it may."""

    def __init__(self) -> None:
        self.may_go_on, self.spans = threading.Event(), 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.may_go_on.wait(10)
        self.spans += len(spans)
        return SpanExportResult.SUCCESS


def test_what_is_kept_is_bounded_and_what_is_lost_is_counted() -> None:
    exporter = Slow()
    tracing = Tracing(exporter, ratio=1.0)
    for _ in range(3 * KEPT_A_SECOND):
        tracing.finished(record(batch_size=0, plan_ms=0.0))
    exporter.may_go_on.set()
    tracing.stop()

    assert exporter.spans + tracing.dropped == 3 * KEPT_A_SECOND
    assert tracing.dropped >= KEPT_A_SECOND


class Failing(SpanExporter):
    """Raises, or says that it failed."""

    def __init__(self, *, raises: bool) -> None:
        self._raises = raises

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._raises:
            raise OSError("the collector is gone")
        return SpanExportResult.FAILURE


@pytest.mark.parametrize("raises", [True, False])
def test_an_exporter_that_fails_stops_nothing_and_is_counted(raises: bool) -> None:
    failing = Tracing(Failing(raises=raises), ratio=1.0)
    failing.finished(record())
    failing.stop()

    assert failing.dropped == 1


async def test_the_gateway_hands_every_request_over_with_its_origin(models: Path, stages: Stages) -> None:
    exporter = InMemorySpanExporter()
    telemetry = Telemetry(tracing=Tracing(exporter, ratio=1.0))
    gateway = Gateway(AppSettings(models=str(models)), stages, telemetry=telemetry)
    await gateway.start()
    await gateway.catalog.stop()

    request = ParametersRequest(device="phone", sample=SAMPLE)
    origin = Origin("r-1", f"00-{TRACE}-{CALLER}-01")
    answer = await gateway.parameters("tiny", request, media_type=PACKAGE, upload_bytes=100, origin=origin)
    await telemetry.stop()

    root, *parts = exporter.get_finished_spans()
    assert [part.name for part in parts] == PARTS
    assert [(part.end_time - part.start_time) / 1e6 for part in parts[2:]] == [1, 2, 3]
    assert root.attributes["duet.request_id"] == "r-1"
    assert root.attributes["duet.plan"] == answer.headers["Duet-Plan"]
    assert f"{root.context.trace_id:032x}" == TRACE


def test_where_nobody_asks_for_traces_nothing_is_built_and_opentelemetry_is_not_loaded() -> None:
    program = (
        "import sys\n"
        "from app.settings import AppSettings\n"
        "from app.telemetry import Telemetry\n"
        "from app.tracing import tracing_of\n"
        "Telemetry.of(AppSettings())\n"
        "print(tracing_of({}, ratio=1.0, file=None), 'opentelemetry' in sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )

    assert process.stdout.split() == ["None", "False"]


@pytest.mark.parametrize(
    "switch", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}], ids=["disabled", "none"]
)
def test_the_standard_switches_turn_a_collector_off(switch: dict[str, str]) -> None:
    assert tracing_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", **switch}, ratio=1.0, file=None) is None


def test_two_places_for_traces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one place for traces"):
        tracing_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, ratio=1.0, file=str(tmp_path / "t"))


def test_another_protocol_than_ours_is_refused() -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}

    with pytest.raises(ValueError, match="'grpc'"):
        tracing_of(environment, ratio=1.0, file=None)


def test_a_file_gets_a_json_object_a_line_and_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    for _ in range(2):
        tracing = tracing_of({}, ratio=1.0, file=str(file))
        assert tracing is not None
        tracing.finished(record())
        tracing.stop()

    spans = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [span["name"] for span in spans] == ["request", *PARTS] * 2
    assert spans[0]["attributes"]["duet.model"] == "demo"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Where OTLP is posted to: the address, and what arrived by path."""
    received: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_collector_gets_the_spans_as_otlp(
    collector: tuple[str, list[tuple[str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    url, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    tracing = tracing_of({"OTEL_EXPORTER_OTLP_ENDPOINT": url}, ratio=1.0, file=None)
    assert tracing is not None
    tracing.finished(record())
    tracing.stop()

    ((path, body),) = received
    (resource_spans,) = ExportTraceServiceRequest.FromString(body).resource_spans
    spans = resource_spans.scope_spans[0].spans
    assert path == "/v1/traces"
    assert [span.name for span in spans] == ["request", *PARTS]
    assert tracing.dropped == 0


def test_a_file_of_traces_ends_at_its_limit_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "traces.jsonl"
    lines = JsonLines(file, limit_bytes=100)
    spans = traced(record(), ratio=1.0)

    results = [lines.export(spans) for _ in range(3)]
    lines.shutdown()

    assert results == [SpanExportResult.SUCCESS, SpanExportResult.FAILURE, SpanExportResult.FAILURE]
    assert len(file.read_text(encoding="utf-8").splitlines()) == len(spans)
    assert len(caplog.messages) == 1


def test_a_collector_without_its_exporter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # as if it were not installed
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)

    with pytest.raises(ValueError, match="otlp"):
        tracing_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, ratio=1.0, file=None)
