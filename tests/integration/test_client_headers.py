"""Over real HTTP, by both of Ray Serve's own ways in: nothing that a client says switches the server's limits off."""

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from app.ports import free_port
from app.settings import BACKSTOP_S
from tests.integration.background_server import background_server
from tests.published_version import ITEM_IDS, write_version
from tests.waiting import wait_until

pytestmark = pytest.mark.serve

URL = "/v1/models/tiny/parameters"
BODY: dict[str, Any] = {"device": "phone", "sample": list(ITEM_IDS[:4]), "link": "wifi", "budget_ms": 10_000}
TIMEOUT, DISCONNECT = "x-request-timeout-seconds", "x-request-disconnect-disabled"
DUET = [sys.executable, "-c", "from app.commands import main; main()"]


@dataclass(frozen=True)
class Proxied:
    """A server in split placement behind a proxy of Ray Serve."""

    url: str
    pid: int

    def ask(self, budget_ms: float = 10_000, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(f"{self.url}{URL}", json=BODY | {"budget_ms": budget_ms}, headers=named, timeout=60)

    def answers(self) -> bool:
        return self.ask().status_code == 200


@pytest.fixture(scope="module", params=["python", "haproxy"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp(request.param)
    write_version(folder / "models")
    port = free_port("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}"
    options = ["--port", str(port), "--cpus", "2", "--placement", "split", "--ingress", request.param]
    with background_server([*DUET, "serve", *options], folder, url) as process:
        yield Proxied(url, process.pid)


@contextmanager
def stalled(server: Proxied, stage: str) -> Iterator[None]:
    """Have the replica of a stage stand still."""
    below = psutil.Process(server.pid).children(recursive=True)
    (pid,) = [each.pid for each in below if each.cmdline()[:1] and f":{stage}" in each.cmdline()[0]]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("said", ["0", "1000000"])
def test_a_budget_ends_where_a_stage_stalls_whatever_the_client_says_of_time(server: Proxied, said: str) -> None:
    wait_until(server.answers, "it answers")
    for _ in range(5):  # so that what it predicts is small beside the budget
        server.ask()

    with stalled(server, "ParameterGenerator"), ThreadPoolExecutor() as clients:
        asked = [
            clients.submit(server.ask, 2000, **headers)
            for headers in ({TIMEOUT: said}, {TIMEOUT: said, DISCONNECT: "?1"})
        ]
        answers = [each.result() for each in asked]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(504, "deadline_exceeded")] * 2
    # a timer may be a millisecond early
    assert all(1990 < answer.json()["elapsed_ms"] < BACKSTOP_S * 1000 for answer in answers)
    wait_until(server.answers, "it answers again")


def test_a_client_does_not_choose_when_ray_cuts_a_request_off(server: Proxied) -> None:
    wait_until(server.answers, "it answers")

    # in a microsecond nothing is answered: where Ray obeys, this is 408
    assert server.ask(**{TIMEOUT: "0.000001"}).status_code == 200
