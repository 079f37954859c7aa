"""Who finds no room is told so before the request is read, over either way in, and everything else goes on."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from starlette.types import Message, Receive, Scope, Send

from app import door as doors
from app.boundary import IS_DIRECT, Boundary
from app.door import Door, Doorway, priority_of
from app.listener import Listener
from app.ports import free_port
from app.settings import Listen
from deployments.room import Room
from duet.protocol.errors import DuetError
from tests.app.test_listener import Served, connect, rest_of
from tests.waiting import wait_until

URL = b"/v1/models/tiny/parameters"
WAITING = URL + b"?wait"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"u=0", "high"),
        (b"u=2, i", "high"),
        (b"i, u=3", "normal"),
        (b"u=4", "low"),
        (b"u=7", "low"),
        (b"u=x", "normal"),
        (b"u=", "normal"),
        (b"", "normal"),
    ],
)
def test_urgency_is_read_as_rfc_9218_has_it(value: bytes, expected: str) -> None:
    assert priority_of([(b"host", b"a"), (b"priority", value)]) == expected
    assert priority_of([(b"host", b"a")]) == "normal"


def full(refused: list[DuetError]) -> Door:
    """Make a door to a room for one, with one inside."""
    room = Room(least=1, most=1)
    room.enter()
    return Door(room, on_refusal=refused.append)


async def asked(door: Door, *, is_direct: bool = False, **headers: str) -> list[Message]:
    """Ask through Ray Serve, or as if the listener had let the request in."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Message:
        raise AssertionError("nothing of it is to be read")

    async def send(message: Message) -> None:
        sent.append(message)

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: Scope = {"type": "http", "headers": pairs, "state": {IS_DIRECT: True} if is_direct else {}}
    await Doorway(app, door)(scope, receive, send)
    return sent


async def test_who_finds_no_room_is_told_when_to_come_back() -> None:
    refused: list[DuetError] = []

    start, body = await asked(full(refused))

    headers = dict(start["headers"])
    document = json.loads(body["body"])
    assert start["status"] == 429
    assert headers[b"retry-after"] == b"1"
    assert headers[b"content-type"] == b"application/problem+json"
    assert int(headers[b"content-length"]) == len(body["body"])
    assert headers[b"x-request-id"].decode() == document["request_id"]
    assert (document["code"], document["status"]) == ("overloaded", 429)
    assert [error.code for error in refused] == ["overloaded"]


async def test_the_id_that_a_proxy_has_set_is_in_the_document_and_not_repeated() -> None:
    start, body = await asked(full([]), x_request_id="abc")

    assert b"x-request-id" not in dict(start["headers"])
    assert json.loads(body["body"])["request_id"] == "abc"


async def test_who_finds_room_is_inside_until_the_answer() -> None:
    room = Room(least=1, most=1)

    (start,) = await asked(Door(room))

    assert start["status"] == 200
    assert room.inside == 0


async def test_who_was_let_in_by_the_listener_is_not_asked_again() -> None:
    assert [message["status"] for message in await asked(full([]), is_direct=True)] == [200]


class Guarded(Served):
    """A listener with a door to a room for one."""

    def __init__(self, port: int) -> None:
        self.room = Room(least=1, most=1)
        self.turned_away: list[DuetError] = []
        super().__init__(port)

    async def _make(self) -> Listener:
        door = Door(self.room, on_refusal=self.turned_away.append)
        app = Boundary(self.app, body_limit_bytes=2**20)
        return Listener(app, Listen(port=self.port), on_refusal=self.refused.append, door=door)


@pytest.fixture
def served() -> Iterator[Guarded]:
    server = Guarded(free_port("127.0.0.1", 0))
    yield server
    server.close()


def ask(path: bytes = URL, body: bytes = b"{}", *headers: bytes, method: bytes = b"POST") -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method, path), b"Host: a", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65_536)
        assert piece, "the connection was closed without an answer"
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65_536)
    return int(first.split()[1]), headers, body


def enter(served: Guarded) -> None:
    async def entered() -> None:
        served.room.enter()

    served.run(entered)


def leave(served: Guarded) -> None:
    async def left() -> None:
        served.room.leave()

    served.run(left)


def test_a_connection_whose_request_is_turned_away_carries_the_next_one(served: Guarded) -> None:
    enter(served)
    with connect(served) as connection:
        connection.sendall(ask())
        status, headers, body = answer_of(connection)
        leave(served)
        connection.sendall(ask())
        let_in = answer_of(connection)

    assert (status, headers["retry-after"]) == (429, "1")
    assert headers["content-type"] == "application/problem+json"
    document = json.loads(body)
    assert (document["code"], document["request_id"]) == ("overloaded", headers["x-request-id"])
    assert (let_in[0], let_in[2]) == (200, b"2")
    assert [error.code for error in served.turned_away] == ["overloaded"]
    assert served.room.inside == 0


def test_the_whole_request_is_read_before_it_is_answered(served: Guarded) -> None:
    enter(served)
    message = ask(body=b"x" * 300_000)
    with connect(served) as connection:
        connection.sendall(message[:200_000])
        connection.sendall(message[200_000:])
        assert answer_of(connection)[0] == 429
        connection.sendall(ask())
        assert answer_of(connection)[0] == 429
    leave(served)


@pytest.mark.parametrize(
    "message",
    [
        ask(b"/readyz"),
        ask(b"/v1/models/tiny"),
        ask(method=b"PUT"),
        ask(URL, b"{}", b"Connection: close"),
        ask(URL, b"{}", b"Expect: 100-continue"),
    ],
)
def test_what_is_no_request_for_parameters_or_rare_takes_the_usual_way(served: Guarded, message: bytes) -> None:
    enter(served)
    with connect(served) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        assert b"HTTP/1.1 200" in rest_of(connection)
    leave(served)


def test_of_requests_that_are_sent_at_once_the_first_counts(served: Guarded) -> None:
    with connect(served) as connection:
        connection.sendall(ask() + ask(body=b"four"))
        received = b""
        while received.count(b"HTTP/1.1 200") < 2:
            received += connection.recv(65_536)

    assert received.index(b"\r\n\r\n2") < received.index(b"\r\n\r\n4")


def test_a_client_that_hangs_up_leaves_the_room(served: Guarded) -> None:
    with connect(served) as connection:
        connection.sendall(ask(WAITING))
        wait_until(lambda: served.room.inside == 1, "one is inside")
    wait_until(lambda: served.room.inside == 0, "nobody is inside")


TRICKLES = 100


def test_uploads_that_trickle_leave_the_room_to_those_who_are_ready(served: Guarded) -> None:
    with ExitStack() as opened:
        slow = [opened.enter_context(connect(served)) for _ in range(TRICKLES)]
        for number, connection in enumerate(slow, 1):
            connection.sendall(ask()[:-1])
            wait_until(lambda: served.app.begun == number, "its headers are read")  # noqa: B023
        inside = served.room.inside
        with connect(served) as ready:
            ready.sendall(ask(body=b"four"))
            told = answer_of(ready)
        answers = []
        for connection in slow:
            connection.sendall(b"}")
            answers.append(answer_of(connection)[0])

    assert inside == 0
    assert (told[0], told[2]) == (200, b"4")
    assert answers == [200] * TRICKLES
    assert served.room.inside == 0
    # each asked for room once, however its body came
    assert not served.turned_away


def test_an_upload_that_is_ready_when_there_is_no_room_is_told_so_unread(served: Guarded) -> None:
    with connect(served) as connection:
        connection.sendall(ask()[:-1])
        wait_until(lambda: served.app.begun == 1, "its headers are read")
        enter(served)
        connection.sendall(b"}")
        status, headers, body = answer_of(connection)
        is_read = served.app.entered.is_set()
        leave(served)
        connection.sendall(ask())
        again = answer_of(connection)

    assert (status, headers["retry-after"], json.loads(body)["code"]) == (429, "1", "overloaded")
    assert not is_read
    assert (again[0], served.room.inside) == (200, 0)


def test_an_upload_that_has_trickled_in_keeps_its_place_until_it_is_answered(served: Guarded) -> None:
    with connect(served) as slow, connect(served) as other:
        slow.sendall(ask(WAITING)[:-1])
        wait_until(lambda: served.app.begun == 1, "its headers are read")
        slow.sendall(b"}")
        wait_until(lambda: served.room.inside == 1, "it is inside")
        other.sendall(ask())
        turned_away = answer_of(other)[0]
        served.let_go_on()
        assert answer_of(slow)[0] == 200
        other.sendall(ask())
        let_in = answer_of(other)[0]

    assert (turned_away, let_in) == (429, 200)
    assert served.room.inside == 0


def test_uploads_that_trickle_hold_so_much_together_and_no_more(
    served: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "_ARRIVING_BYTES", 100)
    long = ask(body=b"x" * 300)
    with connect(served) as first, connect(served) as second, connect(served) as ready:
        first.sendall(long[:-100])  # more than all may hold, and it is alone
        wait_until(lambda: served.app.begun == 1, "its headers are read")
        second.sendall(long[:-100])
        refused = answer_of(second)[0]
        ready.sendall(long)
        at_once = answer_of(ready)[0]
        first.sendall(long[-100:])
        alone = answer_of(first)[0]
        second.sendall(long[-100:] + ask())
        afterwards = answer_of(second)[0]

    assert (refused, at_once, alone, afterwards) == (429, 200, 200, 200)


async def test_behind_ray_serve_a_body_that_trickles_takes_its_place_when_it_is_there() -> None:
    room, pieces = Room(least=1, most=1), [asyncio.Queue[bytes]() for _ in range(3)]
    insides: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            insides.append(room.inside)
        insides.append(room.inside)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask_through(queue: "asyncio.Queue[bytes]") -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            piece = await queue.get()
            return {"type": "http.request", "body": piece, "more_body": piece != b"}"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Scope = {"type": "http", "method": "POST", "headers": []}
        await Boundary(Doorway(app, Door(room)), body_limit_bytes=100)(scope, receive, send)
        return sent

    asking = [asyncio.create_task(ask_through(queue)) for queue in pieces]
    for queue in pieces:
        queue.put_nowait(b"{")
    pieces[0].put_nowait(b"}")
    first = await asking[0]
    room.enter()
    pieces[1].put_nowait(b"}")
    second = await asking[1]
    room.leave()
    pieces[2].put_nowait(b"}")
    third = await asking[2]

    assert [answer[0]["status"] for answer in (first, second, third)] == [200, 429, 200]
    assert sorted(insides) == [0, 0, 0, 1, 1]
    assert room.inside == 0
