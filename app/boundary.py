"""What stands around every request: its id, the limits on its size and pace, the last resort when something breaks."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import problem_response
from deployments.logs import REQUEST_ID
from duet.protocol.access_errors import HeadersTooLarge, RequestTooSlow
from duet.protocol.errors import BodyTooLarge, DuetError, InvalidRequest, RequestError, ServiceUnavailable

BODY_TIMEOUT_S = 10.0
"""How long a body may take by default: the slowest link of the profiles brings 400 kB meanwhile."""

HEADER_LIMIT_COUNT, HEADER_LIMIT_BYTES = 100, 16_384
"""Of one request; HAProxy refuses as much before us, the Python proxy lets more through."""

IS_DIRECT = "is_direct"
"""In the state of a request that has not passed Ray Serve."""

HAS_WHOLE_BODY = "has_whole_body"
"""In the state of a request that came with its body: True where nothing of it is to be waited for."""

ARRIVED_S = "arrived_s"
"""In the state of a request whose socket is ours: when the last byte of it arrived, on the monotonic clock."""

_REQUEST_ID = b"x-request-id"
_SHOWN_CHARACTERS = 128
_CONTENT_LENGTH_DIGITS = 18

logger = logging.getLogger(__name__)


class Boundary:
    """ASGI middleware. Refuses a body that is too large before it is read, and cuts it off while it is read.

    HEAD is answered like GET, without the body: many load balancers ask so whether a server is ready. An error that
    nothing inside has answered is logged with its traceback and answered with a fixed sentence.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_limit_bytes: int,
        body_timeout_s: float = BODY_TIMEOUT_S,
        on_refusal: Callable[[DuetError], None] = lambda error: None,
    ) -> None:
        """Stand around ``app``.

        Args:
            app: What answers the requests.
            body_limit_bytes: Largest body.
            body_timeout_s: How long a body may take to arrive, from the last header on.
            on_refusal: Is told of a request that is refused here.
        """
        self._app, self._limit_bytes, self._limit_s = app, body_limit_bytes, body_timeout_s
        self._on_refusal = on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id, id_header = told_request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        REQUEST_ID.set(request_id)
        has_started, is_head = False, scope["method"] == "HEAD"
        inner = {**scope, "method": "GET"} if is_head else scope

        async def watched_send(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                if id_header:
                    message["headers"] = [*message.get("headers", ()), *id_header]
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        try:
            _check_headers(scope)
            self._check_length(headers.get(b"content-length"))
            await self._app(inner, self._counted(receive, is_whole=HAS_WHOLE_BODY in state), watched_send)
        except ClientDisconnect:
            return  # nobody reads an answer
        except (RequestError, ServiceUnavailable) as error:
            self._on_refusal(error)
            await problem_response(error, request_id)(scope, receive, watched_send)
        except Exception as error:
            logger.exception("Request %s met an error that it should not have met", request_id)
            if has_started:
                raise
            await problem_response(error, request_id)(scope, receive, watched_send)

    def _check_length(self, declared: bytes | None) -> None:
        if declared is None:
            return
        if not declared.isdigit() or len(declared) > _CONTENT_LENGTH_DIGITS:
            raise InvalidRequest(detail="Expected Content-Length to be a count of bytes. Send the length of the body.")
        if int(declared) > self._limit_bytes:
            raise BodyTooLarge(limit_bytes=self._limit_bytes, received_bytes=int(declared))

    def _counted(self, receive: Receive, *, is_whole: bool) -> Receive:
        received_bytes, has_ended = 0, False
        deadline_s = None if is_whole else asyncio.get_running_loop().time() + self._limit_s

        async def counted() -> Message:
            nonlocal received_bytes, has_ended
            if has_ended:  # whoever asks now waits for the client to hang up
                return await receive()
            try:
                if deadline_s is None:
                    message = await receive()
                else:
                    async with asyncio.timeout_at(deadline_s):
                        message = await receive()
            except TimeoutError as error:
                raise RequestTooSlow(limit_s=self._limit_s) from error
            if message["type"] == "http.request":
                has_ended = not message.get("more_body", False)
                received_bytes += len(message.get("body", b""))
                if received_bytes > self._limit_bytes:
                    # how much more would come is not known without reading it
                    raise BodyTooLarge(limit_bytes=self._limit_bytes, received_bytes=None)
            return message

        return counted


def _check_headers(scope: Scope) -> None:
    headers = scope["headers"]
    # as they are on the wire: a colon, a space and the end of the line
    received_bytes = sum(len(name) + len(value) + 4 for name, value in headers)
    if len(headers) > HEADER_LIMIT_COUNT or received_bytes > HEADER_LIMIT_BYTES:
        raise HeadersTooLarge(
            limit_count=HEADER_LIMIT_COUNT,
            limit_bytes=HEADER_LIMIT_BYTES,
            received_count=len(headers),
            received_bytes=received_bytes,
        )


def new_request_id() -> str:
    """Make an id that finds a request in the logs: unique, not secret, and without a call of the system."""
    return f"{random.getrandbits(128):032x}"


def told_request_id(scope: Scope) -> tuple[str, list[tuple[bytes, bytes]]]:
    """Return the id that a request brings along, or a new one, and what of it goes into the headers of its answer."""
    brought = brought_request_id(scope["headers"])
    request_id = new_request_id() if brought is None else brought
    # behind Ray Serve the proxy has set it, and repeats it in the answer
    is_told = brought is None or IS_DIRECT in scope.get("state", ())
    return request_id, [(_REQUEST_ID, request_id.encode())] if is_told else []


def brought_request_id(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Return the id that a request brings along, as far as it can be shown."""
    return next((_printable(value) for name, value in headers if name == _REQUEST_ID), None)


def request_id_of(scope: Scope) -> str:
    """Read the id that the boundary gave to a request."""
    request_id: str = scope["state"]["request_id"]
    return request_id


def _printable(raw: bytes) -> str:
    text = raw.decode("ascii", "replace")[:_SHOWN_CHARACTERS]
    return "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in text)
