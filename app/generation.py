"""The one address that devices ask all the time: reads a request, has the gateway answer it, and writes the answer.

Plain ASGI beside the documented routes: every layer in between costs a request as much as its planning does.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.access import Access
from app.boundary import ARRIVED_S, request_id_of
from app.gateway import Gateway, GatewayAnswer
from app.media_types import media_type_of, negotiate
from app.mistakes import told
from app.offers import ANSWER_TYPES, JSON
from app.problems import problem_response
from app.schemas import ParametersRequest, RequestFields
from deployments.telemetry import TRACEPARENT_CHARACTERS, Origin
from duet.protocol.errors import DuetError, InvalidRequest, NotAcceptable, UnsupportedMediaType
from duet.protocol.request_frame import MEDIA_TYPE as BINARY
from duet.protocol.request_frame import split_request

NAME_CHARACTERS = 64
"""Longest name of a model or a version in an address."""

_IDENTITY = "identity"
_PREFIX, _SUFFIX = "/v1/models/", "/parameters"


def model_of(scope: Scope) -> str | None:
    """Read the model out of the address if the request is one for parameters, else return None."""
    path: str = scope["path"]
    if scope["method"] != "POST" or not (path.startswith(_PREFIX) and path.endswith(_SUFFIX)):
        return None
    model = path[len(_PREFIX) : -len(_SUFFIX)]
    return model if model and "/" not in model else None


class Generation:
    """ASGI application for requests of which ``model_of`` knows the model."""

    def __init__(self, gateway: Gateway, access: Access) -> None:
        """Stand in front of a gateway.

        Args:
            gateway: Does the work.
            access: What is signed.
        """
        self._gateway, self._access = gateway, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            answer = await self.answer(model_of(scope) or "", scope, receive)
        except DuetError as error:
            response = problem_response(error, request_id_of(scope))
            if isinstance(error, UnsupportedMediaType) and _coding_of(_headers_of(scope)) != _IDENTITY:
                response.headers["Accept-Encoding"] = _IDENTITY  # as RFC 9110 asks, to tell it from a type
            await response(scope, receive, send)
            return
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        if answer.media_type is not None:
            headers.append((b"content-length", b"%d" % len(answer.content)))
            headers.append((b"content-type", answer.media_type.encode("latin-1")))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.content})

    async def answer(self, model: str, scope: Scope, receive: Receive) -> GatewayAnswer:
        """Generate the parameters that suit a sample, in the best representation that arrives within the budget.

        Raises:
            DuetError: If they cannot be had.
        """
        headers = _headers_of(scope)
        try:
            media_type, asked, upload_bytes = await _asked(model, headers, receive)
        except DuetError as error:
            self._gateway.telemetry.refused(error)
            raise
        # from here on the gateway counts what becomes of it
        traceparent = headers.get(b"traceparent", b"").decode("latin-1")[:TRACEPARENT_CHARACTERS]
        origin = Origin(request_id_of(scope), traceparent)
        answered = await self._gateway.parameters(
            model,
            asked,
            media_type=media_type,
            upload_bytes=upload_bytes,
            origin=origin,
            arrived_s=scope["state"].get(ARRIVED_S),
        )
        if answered.status != 200:
            return answered
        signed = self._access.signed(answered.headers, answered.content)
        return answered if signed is answered.headers else replace(answered, headers=signed)


def _headers_of(scope: Scope) -> Mapping[bytes, bytes]:
    """Return the headers by name; of one that comes twice, the first."""
    return dict(reversed(scope["headers"]))


async def _asked(model: str, headers: Mapping[bytes, bytes], receive: Receive) -> tuple[str, ParametersRequest, int]:
    """Read a request: what the answer is to be, what is asked, and the bytes that came up."""
    if len(model) > NAME_CHARACTERS:
        raise too_long("model", model)
    accept = headers[b"accept"].decode("latin-1") if b"accept" in headers else None
    media_type = negotiate(accept, ANSWER_TYPES)
    if media_type is None:
        raise NotAcceptable(accepts=[(accept or "")[:200]], offered=ANSWER_TYPES)
    content_type = media_type_of(headers.get(b"content-type", b"").decode("latin-1"))
    if content_type not in _READERS:
        raise UnsupportedMediaType(received=content_type or "none", expected=list(_READERS))
    if (coding := _coding_of(headers)) != _IDENTITY:
        raise UnsupportedMediaType(
            received=f"{content_type} with Content-Encoding {coding}",
            expected=[f"{content_type} with Content-Encoding {_IDENTITY}"],
        )
    content = await _body(receive)
    return media_type, _READERS[content_type](content), len(content)


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _coding_of(headers: Mapping[bytes, bytes]) -> str:
    return headers.get(b"content-encoding", b"").decode("latin-1").strip().lower() or _IDENTITY


def too_long(name: str, value: str) -> InvalidRequest:
    """Refuse a name that no model or version can have."""
    limit = {"max_length": NAME_CHARACTERS}
    return wrong_parameter([ErrorDetails(type="string_too_long", loc=(name,), msg="", input=value, ctx=limit)])


def wrong_parameter(mistakes: list[ErrorDetails]) -> InvalidRequest:
    """Say what is wrong with an address."""
    return InvalidRequest(detail=f"{told(mistakes)}. Correct the URL: /openapi.json describes its parameters.")


def _read(content: bytes) -> ParametersRequest:
    try:
        return ParametersRequest.model_validate_json(content)
    except ValidationError as error:
        mistakes = told(error.errors(include_url=False))
        raise InvalidRequest(
            detail=f"{mistakes}. Correct the body: /openapi.json describes it as ParametersRequest."
        ) from error


def _read_binary(content: bytes) -> ParametersRequest:
    try:
        text, sample = split_request(content)
        fields = RequestFields.model_validate_json(text)
    except ValidationError as error:
        mistakes = told(error.errors(include_url=False))
        raise InvalidRequest(
            detail=f"{mistakes}. Correct the JSON in the body: /openapi.json describes it as RequestFields."
        ) from error
    except ValueError as error:
        raise InvalidRequest(detail=f"{error} docs/protocol.md describes the binary request.") from error
    return ParametersRequest.model_construct(**dict(fields), sample=sample)


_READERS: Mapping[str, Callable[[bytes], ParametersRequest]] = {JSON: _read, BINARY: _read_binary}
