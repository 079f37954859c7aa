"""Whatever comes in, the API answers as its document says, in time, and goes on answering; over a real socket."""

import asyncio
import csv
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.api import build_api
from app.builder import _colocated
from app.door import Door
from app.gateway import Gateway
from app.listener import Listener
from app.metadata import MetadataReader
from app.offers import JSON, ONNX
from app.ports import free_port
from app.problems import MEDIA_TYPE as PROBLEM
from app.settings import AppSettings, Listen
from benchmarks.serving.contract import ContractRun, operations_of, run_contract
from benchmarks.serving.fuzz import UPLOADS, Replica, main
from benchmarks.serving.uploads import Reply, Upload, complaint, exchange, replacements, uploads
from deployments.room import Room
from duet.protocol.embedding_upload import spelt
from duet.registry import PublishedVersion
from tests.published_version import ITEM_IDS, write_version
from tests.waiting import wait_until

pytestmark = pytest.mark.alone

PATH = "/v1/models/tiny/parameters"
GOOD: dict[str, Any] = {"device": "phone", "sample": list(ITEM_IDS[:3]), "link": "wifi", "budget_ms": 10_000}
MORE = {
    "link": {"down_kbps": 1e5, "up_kbps": 1e5, "rtt_ms": 10},
    "accepts": {"forms": ["composed", "shared"], "dtypes": ["int8"]},
    "current": {"version": "0" * 32, "tag": "0" * 16, "age_s": 1.5},
    "priority": "high",
}
BODIES = [json.dumps(body).encode() for body in (GOOD, GOOD | MORE)]
VALUES = [0.5, -0.25, 0.125, 1, -1, 0, 0.75, 2]
OPERATIONS = {
    *("GET /livez", "GET /readyz", "GET /metadata", "GET /v1/models", "GET /v1/models/{model}"),
    *(
        "GET /v1/models/{model}/device-model",
        "GET /v1/models/{model}/encoder",
        "GET /v1/models/{model}/model-card",
        "GET /v1/models/{model}/rollout",
        "POST /v1/models/{model}/parameters",
    ),
}
PLAIN = {"GET /livez", "GET /readyz", "GET /metadata", "GET /v1/models"}
PATIENCE_S = 30


@dataclass(frozen=True)
class Ports:
    """Where one API is reached: by plain uvicorn, and by the listener that ``duet serve`` starts by default."""

    plain: int
    direct: int
    room: Room


@pytest.fixture(scope="module")
def ports(models: Path) -> Iterator[Ports]:
    """The API with the real stages, in a thread of its own."""
    direct = Listen(port=free_port("127.0.0.1", 0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # or each small answer waits for the acknowledgement of its head
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started: list[uvicorn.Server] = []
        rooms: list[Room] = []

        async def serve() -> None:
            given = AppSettings(models=str(models))
            gateway = Gateway(given, _colocated(given))
            rooms.append(gateway.room)
            await gateway.start()
            metadata = MetadataReader(given, endpoints=list)
            api = build_api(gateway, body_limit_bytes=50_000, metadata=metadata, body_timeout_s=1.0)
            refused = gateway.telemetry.refused
            own = Listener(api, direct, on_refusal=refused, door=Door(gateway.room, on_refusal=refused))
            await own.start()
            started.append(uvicorn.Server(uvicorn.Config(api, log_config=None, lifespan="off")))
            await started[0].serve(sockets=[listener])
            await own.stop()
            await gateway.stop()

        serving = threading.Thread(target=asyncio.run, args=(serve(),))
        serving.start()
        port = listener.getsockname()[1]
        # the listener queues connections until the server takes them
        assert httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE_S).status_code == 200
        yield Ports(port, direct.port, rooms[0])
        started[0].should_exit = True
        serving.join(PATIENCE_S)
        assert not serving.is_alive()


@pytest.fixture(scope="module")
def port(ports: Ports) -> int:
    """Of plain uvicorn, as behind Ray Serve."""
    return ports.plain


@pytest.fixture(scope="module")
def embedded_bodies(published: PublishedVersion) -> list[bytes]:
    """The same requests with an embedding in the place of the sample: base64, and numbers."""
    upload = published.manifest.embedding_upload
    assert upload is not None
    spellings = (spelt(upload.read(VALUES)), VALUES)
    requests = [json.loads(body) for body in BODIES]
    for request, values in zip(requests, spellings, strict=True):
        request["embedding"] = {"version": published.digest.hex(), "values": values}
        del request["sample"]
    return [json.dumps(request).encode() for request in requests]


def test_every_operation_answers_as_the_openapi_document_says(port: int, embedded_bodies: list[bytes]) -> None:
    samples = [GOOD["sample"], list(ITEM_IDS[2:7])]

    outcome = ContractRun()
    run_contract(
        f"http://127.0.0.1:{port}",
        model="tiny",
        samples=samples,
        embeddings=[json.loads(body)["embedding"] for body in embedded_bodies],
        examples=40,
        seed=7,
        phases=("coverage", "fuzzing"),
        outcome=outcome,
    )

    assert not outcome.failures, "\n".join(outcome.failures)
    assert {operation for operation, status in outcome.statuses if status == "200"} == OPERATIONS
    assert outcome.statuses["POST /v1/models/{model}/parameters", "400"] > 40
    assert outcome.examples > 200


FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[*HealthCheck],
    phases=[Phase.generate],
)


@settings(FUZZ, max_examples=500)
@given(data=st.data())
def test_a_damaged_request_is_answered_as_documented(
    port: int, embedded_bodies: list[bytes], data: st.DataObject
) -> None:
    upload = data.draw(uploads(PATH, [*BODIES, *embedded_bodies]))

    reply = exchange("127.0.0.1", port, upload)

    assert complaint(upload, reply) is None, upload.content[:3000]


@settings(FUZZ, max_examples=200)
@given(data=st.data())
def test_a_damaged_request_at_the_default_listener_is_answered_as_documented(
    ports: Ports, embedded_bodies: list[bytes], data: st.DataObject
) -> None:
    upload = data.draw(uploads(PATH, [*BODIES, *embedded_bodies]))

    reply = exchange("127.0.0.1", ports.direct, upload)

    assert complaint(upload, reply) is None, upload.content[:3000]


def test_no_odd_value_in_any_place_is_answered_otherwise(port: int, embedded_bodies: list[bytes]) -> None:
    wrong = {
        told
        for body in (BODIES[1], *embedded_bodies)
        for upload in replacements(PATH, body)
        if (told := complaint(upload, exchange("127.0.0.1", port, upload))) is not None
    }

    assert not wrong


@pytest.mark.parametrize("way", ["plain", "direct"])
def test_a_good_request_is_answered_after_all_that(ports: Ports, embedded_bodies: list[bytes], way: str) -> None:
    port: int = getattr(ports, way)
    answers = [
        httpx.post(f"http://127.0.0.1:{port}{PATH}", content=body, headers={"content-type": JSON, "accept": accept})
        for body in (*BODIES, *embedded_bodies)
        for accept in (JSON, "*/*")
    ]
    model = httpx.post(f"http://127.0.0.1:{port}{PATH}", json=GOOD, headers={"accept": ONNX})

    assert [answer.status_code for answer in (*answers, model)] == [200] * 9
    wait_until(lambda: ports.room.inside == 0, "nobody who has gone is counted")


def test_the_long_run_covers_every_operation_and_leaves_a_record(
    port: int, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--models", str(models), "--model", "tiny", "--url", f"http://127.0.0.1:{port}"]
    asked = ["--examples", "300", "--uploads", "50", "--warm-up", "10", "--csv", str(tmp_path / "fuzz.csv")]

    # the API is in the process of the tests, whose memory is no server's: one that rests is watched in its place
    resting = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        main([*given, *asked, "--pid", str(resting.pid)])
    finally:
        resting.communicate(b"\n")

    with (tmp_path / "fuzz.csv").open(encoding="utf-8") as file:
        record = {row["part"]: row for row in csv.DictReader(file)}
    operations = operations_of(f"http://127.0.0.1:{port}")
    assert set(record) == {*operations, UPLOADS}
    assert record.keys() > OPERATIONS
    # all that take something have an equal part of what is drawn, and the others a request a round
    assert {name for name, takes in operations.items() if not takes} == PLAIN
    assert {int(record[name]["drawn"]) for name in PLAIN} == {10}
    assert min(int(record[name]["drawn"]) for name, takes in operations.items() if takes) >= 300 // 8 - 10
    assert sum(int(record[name]["drawn"]) for name in operations) >= 300
    assert int(record[UPLOADS]["examples"]) == 50
    assert float(record[UPLOADS]["resident_before_mib"]) > 0
    said = capsys.readouterr().out
    assert "FAIL" not in said
    assert "PASS  a good request afterwards: 200" in said
    assert "damaged uploads: 50, slowest answer 0." in said


def test_the_long_run_ends_with_1_when_something_does_not_hold(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_version(tmp_path, model="films").folder.parents[1]
    given = ["--models", str(folder), "--model", "films", "--url", f"http://127.0.0.1:{port}"]

    with pytest.raises(SystemExit) as ended:
        main([*given, "--examples", "50", "--uploads", "50", "--warm-up", "10"])

    said = capsys.readouterr().out
    assert ended.value.code == 1, said
    assert "FAIL  a good request afterwards: 404" in said


def test_a_slope_is_that_of_the_second_half_and_descriptors_count_from_the_first_round() -> None:
    replica = Replica(psutil.Process())
    replica.readings = [(0, 0), (10, 9000), (20, 9100), (30, 9200)]
    replica.descriptors = [3, 20, 21, 22]

    assert replica.slope == pytest.approx(10)
    assert replica.more_descriptors == 2


PROBLEM_400 = {"status": 400, "code": "invalid_request", "detail": "Expected.", "request_id": "r"}


@pytest.mark.parametrize(
    ("damage", "status", "content_type", "document", "complains"),
    [
        ("body", 400, PROBLEM, PROBLEM_400, False),
        ("body", 200, "application/octet-stream", {}, False),
        ("body", 0, "", {}, True),
        ("body", 301, PROBLEM, PROBLEM_400, True),
        ("body", 400, "text/plain", PROBLEM_400, True),
        ("body", 404, PROBLEM, PROBLEM_400, True),
        ("headers", 400, PROBLEM, {"status": 400}, True),
        ("body", 500, PROBLEM, PROBLEM_400 | {"status": 500}, True),
        ("body", 503, PROBLEM, PROBLEM_400 | {"status": 503}, False),
        ("framing", 0, "", {}, False),
        ("framing", 400, "text/plain", {}, False),
        ("framing", 502, "text/plain", {}, True),
    ],
)
def test_what_is_not_documented_is_complained_about(
    damage: Any, status: int, content_type: str, document: dict[str, Any], complains: bool
) -> None:
    reply = Reply(status, content_type, json.dumps(document).encode(), 0.1)

    assert (complaint(Upload(b"", damage), reply) is not None) == complains
