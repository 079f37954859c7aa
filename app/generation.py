"""The one address that devices ask all the time: reads a request, has the gateway answer it, and writes the answer.

Plain ASGI beside the documented routes: every layer in between costs a request as much as its planning does.
"""

from collections.abc import Callable, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.access import Access
from app.boundary import request_id_of
from app.gateway import Gateway
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
        request = Request(scope, receive)
        try:
            response = await self.respond(model_of(scope) or "", request)
        except DuetError as error:
            response = problem_response(error, request_id_of(scope))
            if isinstance(error, UnsupportedMediaType) and _coding_of(request) != _IDENTITY:
                response.headers["Accept-Encoding"] = _IDENTITY  # as RFC 9110 asks, to tell it from a type
        await response(scope, receive, send)

    async def respond(self, model: str, request: Request) -> Response:
        """Generate the parameters that suit a sample, in the best representation that arrives within the budget.

        Raises:
            DuetError: If they cannot be had.
        """
        try:
            media_type, asked, upload_bytes = await _asked(model, request)
        except DuetError as error:
            self._gateway.telemetry.refused(error)
            raise
        # from here on the gateway counts what becomes of it
        traceparent = request.headers.get("traceparent", "")[:TRACEPARENT_CHARACTERS]
        origin = Origin(request_id_of(request.scope), traceparent)
        answered = await self._gateway.parameters(
            model, asked, media_type=media_type, upload_bytes=upload_bytes, origin=origin
        )
        said = self._access.signed(answered.headers, answered.content) if answered.status == 200 else answered.headers
        return Response(answered.content, answered.status, said, answered.media_type)


async def _asked(model: str, request: Request) -> tuple[str, ParametersRequest, int]:
    """Read a request: what the answer is to be, what is asked, and the bytes that came up."""
    if len(model) > NAME_CHARACTERS:
        raise too_long("model", model)
    headers = request.headers
    media_type = negotiate(headers.get("accept"), ANSWER_TYPES)
    if media_type is None:
        raise NotAcceptable(accepts=[headers["accept"][:200]], offered=ANSWER_TYPES)
    content_type = media_type_of(headers.get("content-type"))
    if content_type not in _READERS:
        raise UnsupportedMediaType(received=content_type or "none", expected=list(_READERS))
    if (coding := _coding_of(request)) != _IDENTITY:
        raise UnsupportedMediaType(
            received=f"{content_type} with Content-Encoding {coding}",
            expected=[f"{content_type} with Content-Encoding {_IDENTITY}"],
        )
    content = await request.body()
    return media_type, _READERS[content_type](content), len(content)


def _coding_of(request: Request) -> str:
    return (request.headers.get("content-encoding") or _IDENTITY).strip().lower()


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
