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
_RECORDED = "is_recorded"
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
            if not hasattr(request.state, _RECORDED):
                self._gateway.telemetry.refused(error)
            response = problem_response(error, request_id_of(scope))
        await response(scope, receive, send)

    async def respond(self, model: str, request: Request) -> Response:
        """Generate the parameters that suit a sample, in the best representation that arrives within the budget.

        Raises:
            DuetError: If they cannot be had.
        """
        if len(model) > NAME_CHARACTERS:
            raise too_long("model", model)
        headers = request.headers
        media_type = negotiate(headers.get("accept"), ANSWER_TYPES)
        if media_type is None:
            raise NotAcceptable(accepts=[headers["accept"][:200]], offered=ANSWER_TYPES)
        content_type = media_type_of(headers.get("content-type"))
        if content_type not in _READERS:
            raise UnsupportedMediaType(received=content_type or "none", expected=list(_READERS))
        coding = (headers.get("content-encoding") or _IDENTITY).strip().lower()
        if coding != _IDENTITY:
            error = _unsupported_coding(coding)
            self._gateway.telemetry.refused(error)
            response = problem_response(error, request_id_of(request.scope))
            response.headers["Accept-Encoding"] = _IDENTITY  # as RFC 9110 asks, to tell it from a type that is not read
            return response
        content = await request.body()
        origin = Origin(request_id_of(request.scope), headers.get("traceparent", "")[:TRACEPARENT_CHARACTERS])
        asked = _READERS[content_type](content)
        setattr(request.state, _RECORDED, True)  # from here on the gateway counts what becomes of it
        answered = await self._gateway.parameters(
            model, asked, media_type=media_type, upload_bytes=len(content), origin=origin
        )
        said = self._access.signed(answered.headers, answered.content) if answered.status == 200 else answered.headers
        return Response(answered.content, answered.status, said, answered.media_type)


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


def _unsupported_coding(coding: str) -> UnsupportedMediaType:
    """Refuse a compressed body."""
    return UnsupportedMediaType(
        received=f"{JSON} with Content-Encoding {coding}", expected=[f"{JSON} with Content-Encoding {_IDENTITY}"]
    )
