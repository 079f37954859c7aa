"""A gateway's own socket: HTTP over real connections, its limits, and how it ends."""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx
import pytest
import uvloop
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app import listener
from app.boundary import HEADER_LIMIT_BYTES
from app.listener import Listener
from app.ports import free_port
from app.settings import Listen
from duet.protocol.errors import RequestError

PATIENCE_S = 20
PIECE = b"x" * 1_000_000


@dataclass
class Echo:
    """An application that says how long the body was; waits at /wait or ?wait, and answers without end at /endless."""

    entered: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    is_answered: threading.Event = field(default_factory=threading.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    begun: int = 0
    turn: int = 0
    turns: list[int] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        body = await Request(scope, receive).body()
        self.entered.set()
        self.turns.append(self.turn)
        try:
            if scope["path"] == "/wait" or scope["query_string"] == b"wait":
                await self.go_on.wait()
            if scope["path"] == "/endless":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                while not self.cancelled.is_set():
                    await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        await PlainTextResponse(str(len(body)))(scope, receive, send)
        if scope["path"] == "/busy":  # the loop goes on when the client has its answer
            self.is_answered.wait(PATIENCE_S)


class Served:
    """A listener on an event loop of its own."""

    def __init__(self, port: int) -> None:
        self.port, self.app = port, Echo()
        self.refused: list[RequestError] = []
        self._loop = uvloop.new_event_loop()  # as in a replica
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.listener = self.run(self._make)
        self.run(self.listener.start)

    async def _make(self) -> Listener:
        return Listener(self.app, Listen(port=self.port), on_refusal=self.refused.append)

    def begin(self, call: Callable[[], Awaitable[object]]) -> "Future[object]":
        async def called() -> object:
            return await call()

        return asyncio.run_coroutine_threadsafe(called(), self._loop)

    def run(self, call: Callable[[], Awaitable[object]]) -> "Listener":
        return self.begin(call).result(PATIENCE_S)

    def hold_up(self, until: threading.Event) -> None:
        """Let the loop do nothing until then, and count its turns from there on."""

        def count() -> None:
            self.app.turn += 1
            self._loop.call_soon(count)

        def held_up() -> None:
            until.wait(PATIENCE_S)
            count()

        self._loop.call_soon_threadsafe(held_up)

    def let_go_on(self) -> None:
        self._loop.call_soon_threadsafe(self.app.go_on.set)

    def close(self) -> None:
        self.let_go_on()
        self.app.cancelled.set()
        self.run(self.listener.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served(free_port("127.0.0.1", 0))
    yield server
    server.close()


def connect(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE_S)


def rest_of(connection: socket.socket) -> bytes:
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionError:
        pass  # closed while we were still sending
    return received


def problem(answer: bytes) -> tuple[bytes, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"application/problem+json" in head
    assert f"x-request-id: {json.loads(body)['request_id']}".encode() in head
    return head.splitlines()[0], json.loads(body)["code"]


def test_one_connection_carries_many_requests(served: Served) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=PATIENCE_S) as client:
        answers = [client.post("/", content=b"x" * size) for size in (0, 1, 100_000)]

    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "0"), (200, "1"), (200, "100000")]
    assert "server" not in answers[0].headers


def test_an_answer_leaves_before_the_loop_does_anything_else(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(b"POST /busy HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok")
        connection.settimeout(PATIENCE_S / 2)
        try:
            received = connection.recv(65_536)
        finally:
            served.app.is_answered.set()

    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"\r\n\r\n2")


def test_clients_that_come_at_the_same_time_are_let_in_at_the_same_time(served: Served) -> None:
    is_held_up = threading.Event()
    served.hold_up(is_held_up)
    with ExitStack() as opened:
        clients = [opened.enter_context(connect(served)) for _ in range(12)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        is_held_up.set()
        answers = [rest_of(client) for client in clients]

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    # one after the other they would be twelve turns apart
    assert max(served.app.turns) - min(served.app.turns) < 6


def test_requests_that_are_sent_at_once_are_answered_in_order(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(
            b"".join(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (n, b"x" * n) for n in (1, 22))
        )
        received = b""
        while not received.endswith(b"22") and (piece := connection.recv(65_536)):
            received += piece

    assert received.index(b"\r\n\r\n1HTTP") < received.index(b"\r\n\r\n22")


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"what is this?\r\n\r\n", b"400", "invalid_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * HEADER_LIMIT_BYTES, b"431", "headers_too_large"),
        (b"GET /" + b"y" * HEADER_LIMIT_BYTES, b"431", "headers_too_large"),
    ],
    ids=["not-http", "headers", "address"],
)
def test_what_is_no_request_is_told_so_and_never_arrives(served: Served, sent: bytes, status: bytes, code: str) -> None:
    with connect(served) as connection:
        connection.sendall(sent)
        line, told = problem(rest_of(connection))

    assert status in line
    assert told == code
    assert [error.code for error in served.refused] == [code]
    assert not served.app.entered.is_set()


def test_a_refusal_is_read_by_who_is_still_sending(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: ")
        for _ in range(100):
            connection.sendall(b"y" * HEADER_LIMIT_BYTES)
        _, told = problem(rest_of(connection))

    assert told == "headers_too_large"


def test_what_follows_an_unanswered_request_and_is_none_ends_the_connection(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert served.app.entered.wait(PATIENCE_S)
        connection.sendall(b"what is this?\r\n\r\n")
        answer = rest_of(connection)

    assert answer == b""  # and not the error as if it were the answer to the first
    assert served.app.cancelled.wait(PATIENCE_S)


@pytest.mark.parametrize(("sent", "is_told"), [(b"", False), (b"GET / HTT", True)], ids=["nothing", "a-part"])
def test_who_does_not_send_headers_in_time_is_let_go(
    monkeypatch: pytest.MonkeyPatch, served: Served, sent: bytes, is_told: bool
) -> None:
    monkeypatch.setattr(listener, "HEADERS_TIMEOUT_S", 0.2)

    with connect(served) as connection:
        connection.sendall(sent)
        answer = rest_of(connection)

    assert (problem(answer)[1] if answer else None) == ("request_too_slow" if is_told else None)


def test_headers_of_a_second_request_have_a_limit_of_time_too(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr(listener, "HEADERS_TIMEOUT_S", 0.2)

    with connect(served) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        first = connection.recv(65_536)
        connection.sendall(b"GET / HTTP/1.1\r\nHost")
        second = rest_of(connection)

    assert first.startswith(b"HTTP/1.1 200 OK")
    assert problem(second)[1] == "request_too_slow"


def test_a_slow_answer_is_not_cut_off(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr(listener, "HEADERS_TIMEOUT_S", 0.05)

    with connect(served) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        served.app.entered.wait(PATIENCE_S)
        threading.Timer(0.3, served.let_go_on).start()
        answer = rest_of(connection)

    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_work_ends_when_its_client_has_gone(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert served.app.entered.wait(PATIENCE_S)

    assert served.app.cancelled.wait(PATIENCE_S)


def test_a_reader_that_stalls_is_let_go(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    monkeypatch.setattr(listener, "BACKSTOP_S", 0.2)

    with connect(served) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        assert served.app.cancelled.wait(PATIENCE_S)


def test_a_connection_that_is_idle_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_IDLE_S", 0.2)
    server = Served(free_port("127.0.0.1", 0))
    try:
        with connect(server) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert rest_of(connection).endswith(b"\r\n\r\n0")
    finally:
        server.close()


def test_a_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MOST_CONNECTIONS", 2)
    server = Served(free_port("127.0.0.1", 0))
    try:
        with connect(server), httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=PATIENCE_S) as client:
            assert client.get("/").status_code == 503
    finally:
        server.close()

    assert not server.app.entered.is_set()


def test_stopping_answers_who_is_inside_and_nobody_else(served: Served) -> None:
    with connect(served) as inside:
        inside.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert served.app.entered.wait(PATIENCE_S)
        stopping = served.begin(served.listener.stop)
        while True:
            try:
                connect(served).close()
            except (ConnectionRefusedError, ConnectionResetError):  # reset if it was in the backlog that was dropped
                break
        served.let_go_on()
        answer = rest_of(inside)
    stopping.result(PATIENCE_S)

    assert answer.startswith(b"HTTP/1.1 200 OK")
    with pytest.raises(RuntimeError, match="listen on"):
        served.listener.check()


def test_replicas_of_one_node_share_a_port(served: Served) -> None:
    other = Served(served.port)
    try:
        while not (served.app.entered.is_set() and other.app.entered.is_set()):
            assert httpx.get(f"http://127.0.0.1:{served.port}/", timeout=PATIENCE_S).status_code == 200
    finally:
        other.close()

    assert httpx.get(f"http://127.0.0.1:{served.port}/", timeout=PATIENCE_S).status_code == 200


def test_an_address_that_cannot_be_had_is_an_error(served: Served) -> None:
    taken = Listener(served.app, Listen(host="192.0.2.1", port=served.port))

    with pytest.raises(OSError, match="assign"):
        served.run(taken.start)
