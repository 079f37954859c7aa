"""Refuses at the door what there is no room for: told to come back before it is read, for a fraction of the cost.

A refusal that has been read, checked and planned costs three quarters of a small model's answer: offered twice what it
can do, a server that refuses like that does little else, and what it does accept waits behind the refusals. What is let
in meets all rungs of the ladder.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.boundary import IS_DIRECT, brought_request_id, new_request_id, told_request_id
from app.problems import problem_response
from deployments.admission import Priority
from deployments.room import Room
from duet.protocol.errors import DuetError, Overloaded

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names in small letters."""

_URGENT, _PATIENT = 2, 4
_RETRY_AFTER_S = 1.0
# of bodies that arrive slowly, all together
_ARRIVING_BYTES = 64 * 2**20


class Door:
    """Lets requests for parameters in while there is room, and knows what to tell the others."""

    def __init__(self, room: Room, *, on_refusal: Callable[[DuetError], None] = lambda _: None) -> None:
        """Open it.

        Args:
            room: There is inside.
            on_refusal: Is told of those that are sent away.
        """
        self.room, self._on_refusal = room, on_refusal
        self._arriving_bytes = 0
        self._error = Overloaded(retry_after_s=_RETRY_AFTER_S)
        response = problem_response(self._error, "")
        document = json.loads(bytes(response.body))
        del document["request_id"]
        self._document = json.dumps(document)[:-1].encode() + b', "request_id": '
        self._status = response.status_code
        self._headers = [pair for pair in response.raw_headers if pair[0] != b"content-length"]
        lines = b"".join(b"%b: %b\r\n" % pair for pair in self._headers)
        self._head = b"HTTP/1.1 %d %b\r\n" % (self._status, HTTPStatus(self._status).phrase.encode()) + lines

    def is_shut_to(self, headers: Headers) -> bool:
        """Whether there is no room for a request with these headers."""
        return not self.room.has_room(priority_of(headers))

    @contextmanager
    def arriving(self, receive: Receive, headers: Headers, enter: Callable[[], None]) -> Iterator[Receive]:
        """Have a request take its place when its body has been read, and not while that trickles in.

        Args:
            receive: Brings the body.
            headers: Of the request, which was not turned away because of them.
            enter: Takes the place.

        Yields:
            The same; it raises ``Overloaded`` if there is no room when the last of the body has come, or if others that
            arrive hold too much already.
        """
        held_bytes = 0

        async def read() -> Message:
            nonlocal held_bytes
            message = await receive()
            if message["type"] != "http.request":
                return message
            if self._arriving_bytes - held_bytes > _ARRIVING_BYTES:
                raise Overloaded(retry_after_s=_RETRY_AFTER_S)
            held_bytes += len(message.get("body", b""))
            self._arriving_bytes += len(message.get("body", b""))
            if not message.get("more_body", False):
                if not self.room.has_room(priority_of(headers), is_new=False):
                    raise Overloaded(retry_after_s=_RETRY_AFTER_S)
                enter()
            return message

        try:
            yield read
        finally:
            self._arriving_bytes -= held_bytes

    def refusal(self, headers: Headers) -> bytes:
        """Make the answer to a request that is not let in, whole, as it goes over a connection of ours."""
        self._on_refusal(self._error)
        request_id = brought_request_id(headers) or new_request_id()
        body = self._body(request_id)
        return b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b" % (
            self._head,
            request_id.encode(),
            len(body),
            body,
        )

    async def refuse(self, scope: Scope, send: Send) -> None:
        """Answer a request that is not let in."""
        self._on_refusal(self._error)
        request_id, id_header = told_request_id(scope)
        body = self._body(request_id)
        headers = [*self._headers, *id_header, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _body(self, request_id: str) -> bytes:
        return self._document + json.dumps(request_id).encode() + b"}"


class Doorway:
    """ASGI middleware: the door for requests that come through Ray Serve. On a socket of ours they are met earlier."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        """Stand in front of ``app``."""
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or send it away."""
        if IS_DIRECT in scope.get("state", ()):
            await self._app(scope, receive, send)
            return
        if self._door.is_shut_to(scope["headers"]):
            await self._door.refuse(scope, send)
            return
        room, is_inside = self._door.room, False

        def enter() -> None:
            nonlocal is_inside
            is_inside = True
            room.enter()

        try:
            with self._door.arriving(receive, scope["headers"], enter) as read:
                await self._app(scope, read, send)
        finally:
            if is_inside:
                room.leave()


def priority_of(headers: Headers) -> Priority:
    """Read the urgency in the header ``Priority`` (RFC 9218): 0 to 2 is high, 3 normal, 4 to 7 low."""
    for name, value in headers:
        if name == b"priority":
            _, found, urgency = value.partition(b"u=")
            if found and urgency[:1].isdigit():
                number = int(urgency[:1])
                return "high" if number <= _URGENT else "low" if number >= _PATIENT else "normal"
    return "normal"
