"""A gateway's own listening socket: requests reach the application without a proxy, and without Ray Serve's way in.

A proxy, the hop behind it and what Ray Serve does for each request cost several times what a small model's parameters
do. What they would have done for the safety of the server is done here: limits on the size and the time of headers and
on readers that stall, and an end to the work on a request whose client has gone.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.boundary import ARRIVED_S, HAS_WHOLE_BODY, HEADER_LIMIT_BYTES, HEADER_LIMIT_COUNT, IS_DIRECT, new_request_id
from app.door import Door
from app.haproxy import HEADERS_TIMEOUT_S
from app.joined_writes import JoinedWrites
from app.problems import problem_response
from app.settings import BACKSTOP_S, Listen
from app.socket_wait import SocketWait
from duet.protocol.access_errors import HeadersTooLarge, RequestTooSlow
from duet.protocol.errors import InvalidRequest, RequestError

MOST_CONNECTIONS = 4_096
"""Those beyond are answered with 503."""

_IDLE_S = BACKSTOP_S
_DRAIN_S = 5
_LINGER_S = 2
_POLL_S = 0.005
_ACCEPTED_A_TURN = 16
_PARAMETERS = re.compile(rb"/v1/models/[^/?]+/parameters(?:\?.*)?")


class Listener:
    """Listens on one address for as long as a replica lives; several replicas of a node may share the address."""

    def __init__(
        self,
        app: ASGIApp,
        listen: Listen,
        *,
        on_refusal: Callable[[RequestError], None] = lambda _: None,
        door: Door | None = None,
    ) -> None:
        """Prepare to serve ``app``; ``start`` does.

        Args:
            app: What answers the requests.
            listen: Where.
            on_refusal: Told of what never becomes a request of ``app``.
            door: Where requests for parameters are turned away while there is no room; everybody is let in by default.
        """
        self._listen = listen
        connection = partial(_Connection, on_refusal=on_refusal, wait=SocketWait(), door=door)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=connection,  # type: ignore[arg-type]  # called like a class
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="error",  # a client that cannot speak HTTP is its own affair
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=_DRAIN_S,
                ssl_certfile=listen.certificate,
                ssl_keyfile=listen.private_key,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, on the event loop that is running.

        Raises:
            OSError: If the address cannot be had.
        """
        listening = _bound(self._listen.host, self._listen.port)
        # uvloop accepts one connection a turn from each: where turns are long, new clients would wait and wait
        alike = [listening, *(listening.dup() for _ in range(_ACCEPTED_A_TURN - 1))]
        self._serving = asyncio.create_task(self._server.serve(sockets=alike))
        while not self._server.started:
            self.check()
            await asyncio.sleep(_POLL_S)

    def check(self) -> None:
        """Raise ``RuntimeError`` if it has stopped listening by itself."""
        if self._serving is not None and self._serving.done():
            raise RuntimeError(f"Expected to listen on {self._listen.host}:{self._listen.port}, but that has ended.")

    async def stop(self) -> None:
        """Accept nothing more, give the requests that are inside some seconds, and close."""
        if self._serving is not None:
            self._server.should_exit = True
            await asyncio.gather(self._serving, return_exceptions=True)


def _bound(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):  # the kernel spreads connections over the replicas of a node
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to Ray."""
        yield


class _Connection(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, with limits on what comes before the body and on what is not read."""

    def __init__(
        self,
        *arguments: Any,
        on_refusal: Callable[[RequestError], None],
        wait: SocketWait,
        door: Door | None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._on_refusal, self._wait, self._door = on_refusal, wait, door
        self._is_turned_away = False
        self._inside: RequestResponseCycle | None = None
        self._outside: RequestResponseCycle | None = None
        self._application, self.app = self.app, self._answer
        self._answering: asyncio.Task[None] | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_refused = False

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._answering = asyncio.current_task()
        state = scope["state"]
        state[IS_DIRECT] = True
        # of pipelined requests the last one is looked at, whichever this is
        if self.cycle is not None and self.cycle.scope is scope and not self.cycle.more_body:
            state[HAS_WHOLE_BODY] = True
        late = self._outside if self._outside is not None and self._outside.scope is scope else None
        try:
            if self._door is None or late is None:
                await self._application(scope, receive, send)
                return
            with self._door.arriving(receive, scope["headers"], partial(self._has_come_in, late)) as read:
                await self._application(scope, read, send)
        except asyncio.CancelledError:
            if not self.transport.is_closing():
                raise
        finally:
            self._answering = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's type for both ends; uvloop's transport is one without saying so
        self._joined = JoinedWrites(cast(asyncio.Transport, transport), self.loop)
        super().connection_made(self._joined)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_left()
        self._has_head()
        self._has_written()
        super().connection_lost(exc)
        if self._answering is not None:  # nobody reads the answer
            self._answering.cancel()

    def eof_received(self) -> None:
        self._joined.pass_on()  # the transport closes itself after this
        super().eof_received()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        super().data_received(data)
        if self._inside is not None and self._inside.more_body:
            # who sends slowly waits outside: the place is for work, and the next one may be ready for it
            self._outside = self._inside
            self._has_left()
        if self._head_timer is not None and not self._is_turned_away and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEADER_LIMIT_BYTES:
                self._refuse(
                    HeadersTooLarge(
                        limit_count=HEADER_LIMIT_COUNT,
                        limit_bytes=HEADER_LIMIT_BYTES,
                        received_count=len(self.headers or ()),
                        received_bytes=self._head_bytes,
                    )
                )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        door = self._door if self._inside is None and _PARAMETERS.fullmatch(self.url) else None
        if door is not None and self._can_be_turned_away() and door.is_shut_to(self.headers):
            self._is_turned_away = True  # when the body has been read; the timer of the head goes on until then
            return
        self._has_head()
        super().on_headers_complete()
        if door is not None:
            self._has_come_in(self.cycle)

    def on_body(self, body: bytes) -> None:
        if not self._is_turned_away:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_turned_away and self._door is not None:
            self._is_turned_away = False
            self._has_head()
            self._joined.write(self._door.refusal(self.headers))
            self.on_response_complete()
            return
        self.scope["state"][ARRIVED_S] = self._wait.arrived_s(self._joined)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._has_left()
        self._joined.pass_on()  # before the loop reads what has come meanwhile
        super().on_response_complete()

    def _can_be_turned_away(self) -> bool:
        """Whether an answer could be written as soon as the request is read; what is rare takes the usual way."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
        )

    def _has_come_in(self, cycle: RequestResponseCycle) -> None:
        if self._inside is None and self._door is not None:
            self._inside = cycle
            self._door.room.enter()

    def _has_left(self) -> None:
        if self._inside is not None and self._door is not None:
            self._inside = None
            self._door.room.leave()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(BACKSTOP_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._has_written()

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest(detail="Expected a request in HTTP/1.1, got something else. Correct the request."))

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(HEADERS_TIMEOUT_S, self._no_head)

    def _has_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _has_written(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _no_head(self) -> None:
        if self._head_bytes:
            self._refuse(RequestTooSlow(limit_s=HEADERS_TIMEOUT_S))
        else:
            self.transport.close()

    def _refuse(self, error: RequestError) -> None:
        """Answer what never becomes a request of the application, and close."""
        self._has_head()
        self._on_refusal(error)
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # an answer to the request before may be half written
            return
        request_id = new_request_id()
        response = problem_response(error, request_id)
        status = f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}\r\n".encode()
        headers = [(name, value) for name, value in response.raw_headers if name != b"connection"]
        lines = [
            b"%b: %b\r\n" % pair
            for pair in (*headers, (b"x-request-id", request_id.encode()), (b"connection", b"close"))
        ]
        self.transport.write(b"".join((status, *lines, b"\r\n", bytes(response.body))))
        self._is_refused = True
        if self.transport.can_write_eof():
            # closed at once, with something unread, the connection would be reset and the answer lost
            self.transport.write_eof()
            self._head_timer = self.loop.call_later(_LINGER_S, self.transport.close)
        else:
            self.transport.close()
