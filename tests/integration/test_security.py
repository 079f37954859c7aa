"""``duet serve`` as an operator would harden it: keys, signatures, TLS, slow clients, Ray's token, open ports."""

import json
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from app.haproxy import HEADERS_TIMEOUT_S
from app.keys import create_key, write_keys
from app.ports import free_port
from app.settings import AppSettings
from deployments.loading import LOADER_STEPS_BACK
from deployments.priority import STEP_BACK, WATCHERS
from duet.device import DuetDevice
from duet.protocol.access_errors import ForgedPackage, Unauthorized
from duet.protocol.errors import NoDeviceModel
from duet.protocol.signing import SigningKey, write_signing_keys
from tests.integration.background_server import background_server
from tests.integration.listening_ports import ALL, LOOPBACK, Listener, differences, documented, listening, settled
from tests.published_version import ITEM_IDS, write_version
from tests.self_signed import write_certificate

pytestmark = pytest.mark.serve

URL = "/v1/models/tiny/parameters"
BODY = {"device": "phone", "sample": list(ITEM_IDS[:4]), "link": "wifi", "budget_ms": 10_000}
OLD, NEW = SigningKey("old", bytes(32)), SigningKey("new", bytes(range(32)))
DUET = [sys.executable, "-c", "from app.commands import main; main()"]
# one method of every service of Ray that unpickles or gives away something
RAY_METHODS = (
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.serve.ASGIService/HandleRequest",
)


@dataclass(frozen=True)
class Secured:
    """A server with everything switched on."""

    port: int
    pid: int
    key: str
    context: ssl.SSLContext
    signing_keys: Path
    log: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def device(self, cache: Path, **options: object) -> DuetDevice:
        transport = httpx.HTTPTransport(verify=self.context)
        given = {"device_id": "phone", "budget_ms": 10_000, "api_key": self.key, "signing_key": OLD} | options
        return DuetDevice(self.url, "tiny", cache=cache, transport=transport, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    write_version(folder / "models", version="v1", seed=0)
    certificate, private = write_certificate(folder)
    text, key = create_key(label="test")
    write_keys(folder / "api-keys.jsonl", [key])
    write_signing_keys(folder / "signing-keys.jsonl", [OLD])
    port = free_port("127.0.0.1", 0)
    options = ["--api-keys", "api-keys.jsonl", "--signing-keys", "signing-keys.jsonl", "--host", "0.0.0.0"]
    tls = ["--tls-cert", str(certificate), "--tls-key", str(private)]
    context = ssl.create_default_context(cafile=str(certificate))
    command = [*DUET, "serve", "--port", str(port), "--cpus", "2", *options, *tls]
    with background_server(command, folder, f"https://127.0.0.1:{port}", context) as server:
        yield Secured(port, server.pid, text, context, folder / "signing-keys.jsonl", folder / "serve.log")


def test_a_device_with_key_and_signature_is_served_over_tls(secured: Secured, tmp_path: Path) -> None:
    with secured.device(tmp_path) as device:
        assert device.update(BODY["sample"], raise_on_error=True).status == "updated"


def test_a_device_without_key_is_not(secured: Secured, tmp_path: Path) -> None:
    with secured.device(tmp_path, api_key=None) as device, pytest.raises(NoDeviceModel) as refusal:
        device.prepare()

    assert isinstance(refusal.value.__cause__, Unauthorized)


def test_a_device_that_has_another_signing_key_believes_nothing(secured: Secured, tmp_path: Path) -> None:
    with secured.device(tmp_path, signing_key=NEW) as device, pytest.raises(NoDeviceModel) as refusal:
        device.prepare()

    assert isinstance(refusal.value.__cause__, ForgedPackage)


def test_another_signing_key_signs_without_a_restart(secured: Secured, tmp_path: Path) -> None:
    write_signing_keys(secured.signing_keys, [NEW, OLD])
    try:
        with secured.device(tmp_path, signing_key=[OLD, NEW]) as both, httpx.Client(verify=secured.context) as client:
            deadline = time.monotonic() + 30
            signature = ""
            while not signature.endswith("key=new") and time.monotonic() < deadline:
                assert both.update(BODY["sample"], raise_on_error=True).status in ("updated", "kept")
                headers = {"authorization": f"Bearer {secured.key}"}
                signature = client.get(f"{secured.url}/v1/models/tiny", headers=headers).headers["duet-signature"]
            assert signature.endswith("key=new")
    finally:
        write_signing_keys(secured.signing_keys, [OLD])


def test_nobody_speaks_plain_http(secured: Secured) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{secured.port}/livez")


def test_no_secret_stands_in_the_output_of_the_server(secured: Secured) -> None:
    said = secured.log.read_text()

    assert "Serving tiny v1" in said
    assert secured.key.split("_", 2)[2] not in said
    assert json.loads(secured.signing_keys.read_text().splitlines()[0])["secret"] not in said


def answer_to(secured: Secured, *parts: bytes) -> bytes:
    """Send parts, half a second apart, until the server has answered and closed the connection."""
    with (
        socket.create_connection(("127.0.0.1", secured.port), timeout=60) as plain,
        secured.context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.settimeout(0.5)
        received, left = b"", list(parts)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if left:
                    connection.sendall(left.pop(0))
                piece = connection.recv(65_536)
            except TimeoutError:
                continue
            except (ConnectionError, ssl.SSLError):
                return received
            if not piece:
                return received
            received += piece
        raise AssertionError(f"the server has not closed the connection; it said {received!r}")


@dataclass(frozen=True)
class CutOff:
    """What a client that trickles was told, and after how many seconds."""

    answer: bytes
    after_s: float


@pytest.fixture(scope="module")
def cut_off(secured: Secured) -> dict[str, CutOff]:
    """Clients whose body, or headers, trickle; at the same time, since each is waited for as long as it may take."""
    head = (
        f"POST {URL} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secured.key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 10000\r\n\r\n"
    )
    trickles = {
        "body": (head.encode(), *([b" "] * 1000)),
        "headers": (b"GET /livez HTTP/1.1\r\n", *([b"X: y\r\n"] * 1000)),
    }

    def send(parts: tuple[bytes, ...]) -> CutOff:
        started_s = time.monotonic()
        return CutOff(answer_to(secured, *parts), time.monotonic() - started_s)

    with ThreadPoolExecutor() as clients:
        return dict(zip(trickles, clients.map(send, trickles.values()), strict=True))


def test_a_body_that_trickles_is_cut_off(cut_off: dict[str, CutOff]) -> None:
    answer = cut_off["body"].answer

    assert b" 408 " in answer.splitlines()[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "request_too_slow"


def test_headers_that_trickle_are_cut_off(cut_off: dict[str, CutOff]) -> None:
    slow = cut_off["headers"]

    assert b" 408 " in slow.answer.splitlines()[0]
    assert slow.after_s == pytest.approx(HEADERS_TIMEOUT_S, abs=5)


def test_long_headers_never_reach_the_application(secured: Secured) -> None:
    headers = {f"x-{place}": "y" * 1000 for place in range(20)}

    answer = httpx.get(f"{secured.url}/livez", headers=headers, verify=secured.context)

    assert answer.status_code == 431
    assert answer.json()["code"] == "headers_too_large"


def test_no_process_of_ray_answers_without_the_token(secured: Secured) -> None:
    token = (Path.home() / ".ray" / "auth_token").read_text()
    guarded = {row.process for row in documented(placement="colocated", ingress="direct") if row.who == "Ray's token"}
    answers = {
        (listener.process, listener.port, method): (call(listener.port, method), call(listener.port, method, token))
        for listener in listening(secured.pid)
        if listener.process in guarded
        for method in RAY_METHODS
    }

    without = {
        place: answer for place, (answer, _) in answers.items() if answer not in ("UNIMPLEMENTED", "UNAVAILABLE")
    }
    assert set(without.values()) == {"UNAUTHENTICATED"}
    # every service was met, and the token opens it
    assert {method for *_, method in without} == set(RAY_METHODS)
    assert {process for process, *_ in without} == guarded - {"DashboardAgent", "RuntimeEnvAgent"}
    assert not [place for place in without if answers[place][1] == "UNAUTHENTICATED"]


def test_a_port_that_any_row_would_take_leaves_the_others_theirs() -> None:
    rows = [row for row in documented(placement="colocated", ingress="direct") if row.process == "DashboardAgent"]
    found = [Listener("DashboardAgent", LOOPBACK, port) for port in (52_365, 60_001, 60_002)]

    for _ in found:
        found.append(found.pop(0))
        assert differences(found, rows, host=LOOPBACK, port=8000) == ([], [])
    assert differences(found[:2], rows, host=LOOPBACK, port=8000) != ([], [])
    assert differences([*found, found[0]], rows, host=LOOPBACK, port=8000) != ([], [])


def call(port: int, method: str, token: str | None = None) -> str:
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            name: str = error.code().name
            return name
    return "OK"


def test_only_documented_ports_are_open_and_only_one_is_meant_for_others(secured: Secured) -> None:
    rows = documented(placement="colocated", ingress="direct")

    found = settled(secured.pid, rows, host=ALL, port=secured.port)

    assert differences(found, rows, host=ALL, port=secured.port) == ([], [])
    assert {each.process for each in found if each.interface != LOOPBACK} == {"Gateway"}


def test_the_replica_waits_behind_nobody_and_what_watches_it_steps_back(secured: Secured) -> None:
    below = psutil.Process(secured.pid).children(recursive=True)
    usual = os.getpriority(os.PRIO_PROCESS, secured.pid)

    niceness = {" ".join(process.cmdline()).split(" ")[0]: niceness_of_threads(process) for process in below}

    assert {name: set(niceness[name]) for name in WATCHERS} == {name: {STEP_BACK} for name in WATCHERS}
    replica = niceness["ray::ServeReplica:duet:Gateway"]
    # those that load versions, the catalog's and the pipeline's, step back for those that answer
    assert set(replica) == {usual, usual + LOADER_STEPS_BACK}
    assert replica.count(usual + LOADER_STEPS_BACK) <= 2


def niceness_of_threads(process: psutil.Process) -> list[int]:
    """On Linux each thread has its own."""
    found = []
    for thread in process.threads():
        with suppress(ProcessLookupError):
            found.append(os.getpriority(os.PRIO_PROCESS, thread.id))
    return found


@pytest.mark.parametrize(
    ("placement", "ingress"), [("split", "direct"), ("colocated", "haproxy"), ("colocated", "python")]
)
def test_other_ways_to_start_open_what_is_documented(tmp_path: Path, placement: str, ingress: str) -> None:
    write_version(tmp_path / "models", version="v1", seed=0)
    certificate, private = write_certificate(tmp_path)
    port = free_port("127.0.0.1", 0)
    options = [
        "--placement",
        placement,
        "--ingress",
        ingress,
        "--tls-cert",
        str(certificate),
        "--tls-key",
        str(private),
    ]
    context = ssl.create_default_context(cafile=str(certificate))
    url = f"https://127.0.0.1:{port}"
    with background_server(
        [*DUET, "serve", "--port", str(port), "--cpus", "2", *options], tmp_path, url, context
    ) as server:
        found = settled(server.pid, documented(placement=placement, ingress=ingress), host=LOOPBACK, port=port)
        answer = httpx.post(f"{url}{URL}", json=BODY, verify=context, timeout=30)
        strange_id = httpx.get(f"{url}/livez", headers={"x-request-id": b"\xff\xfe"}, verify=context)
        method = httpx.request("BREW", f"{url}/livez", verify=context)

    assert answer.status_code == 200
    # docs/api.md says what Ray and HAProxy answer in our place: should they change, so must the page
    assert strange_id.status_code == (200 if ingress == "direct" else 500)
    assert method.status_code == 400
    assert differences(found, documented(placement=placement, ingress=ingress), host=LOOPBACK, port=port) == ([], [])


def test_settings_name_files_of_keys_and_never_hold_one() -> None:
    secret = {name for name in AppSettings.model_fields if "key" in name}

    assert secret == {"api_keys", "signing_keys"}
    assert not os.environ.keys() & {"DUET_API_KEY", "DUET_SIGNING_KEY"}
