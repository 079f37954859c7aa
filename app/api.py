"""The HTTP API: routes, what they read, and how failures are told. The work is the gateway's."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Annotated

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import duet
from app import openapi
from app.access import OPEN_PATHS, Access, KeyCheck
from app.boundary import BODY_TIMEOUT_S, Boundary, request_id_of
from app.door import Door, Doorway
from app.gateway import Gateway
from app.generation import NAME_CHARACTERS, Generation, model_of, wrong_parameter
from app.metadata import MetadataReader, ServerMetadata
from app.offers import JSON, ONNX, PACKAGE
from app.problems import plain_problem, problem_response
from app.schemas import ModelList, PackageAnswer, ParametersRequest, Rollout, Status
from app.served_version import ServedVersion
from duet.protocol.access_errors import HeadersTooLarge, RateLimited, RequestTooSlow, Unauthorized
from duet.protocol.decoders import DECODERS_FILE
from duet.protocol.embedding_errors import InvalidEmbedding, WrongEncoder
from duet.protocol.embedding_upload import ENCODER_FILE
from duet.protocol.errors import (
    BodyTooLarge,
    BudgetTooSmall,
    CorruptVersion,
    DeadlineExceeded,
    DuetError,
    InvalidRequest,
    InvalidSample,
    NonFiniteParameters,
    NotAcceptable,
    Overloaded,
    UnknownModel,
    UnknownVersion,
    UnsupportedMediaType,
    VersionNotReady,
)
from duet.protocol.request_frame import MEDIA_TYPE as BINARY
from duet.registry import CARD_NAME

MARKDOWN = "text/markdown"
"""Of a model card."""
_IMMUTABLE, _CHECK_AGAIN = "max-age=31536000, immutable", "no-cache"

_VERSION_HEADERS = {
    "Duet-Version": "First 16 bytes of the manifest's SHA-256, hexadecimal; stands in every package.",
    "Duet-Model-Version": "Name of the version.",
}
_ANSWER_HEADERS = {
    "Duet-Plan": "Name of the representation that was chosen, or `keep`.",
    "Duet-Predicted-Ms": "What the plan expected, from sending to the last byte received.",
    "Duet-Server-Ms": "What the server took.",
    "Duet-Network-Ms": "What the plan expects of the network.",
    "Duet-Tag": "Names what was sent; send it back in `current`.",
    "Duet-Signature": "`hmac-sha256=<hexadecimal>; key=<id>` of the body, where the server has a signing key.",
    **_VERSION_HEADERS,
    "Server-Timing": "`queue`, `encode`, `generate`, `compose` in milliseconds; the last three of the whole batch.",
}
_FILE_HEADERS = {"ETag": "SHA-256 of the file; send it back in `If-None-Match`.", **_VERSION_HEADERS}

# what may stop a request before it reaches its route; the probes need no key
_ANYWHERE = (HeadersTooLarge,)
_GUARDED = (*_ANYWHERE, Unauthorized, RateLimited)

ModelName = Annotated[str, Path(description="Name of a published model.", max_length=NAME_CHARACTERS)]
VersionName = Annotated[
    str | None, Query(description="A published version; that of the device by default.", max_length=NAME_CHARACTERS)
]
DeviceName = Annotated[
    str | None,
    Query(
        description="A device, as in requests for parameters: without `version`, the answer is of the version that it "
        "gets. The active version by default.",
        min_length=1,
        max_length=128,
    ),
]


def build_api(
    gateway: Gateway,
    *,
    body_limit_bytes: int,
    metadata: MetadataReader,
    body_timeout_s: float = BODY_TIMEOUT_S,
    access: Access | None = None,
) -> FastAPI:
    """Make the ASGI application in front of a gateway that has started.

    Args:
        gateway: Does the work.
        body_limit_bytes: Largest body of a request.
        metadata: Describes the server.
        body_timeout_s: How long a body may take to arrive.
        access: Who is let in, and what is signed; everybody and nothing when None.
    """
    access = access or Access()
    app = _Api(
        title="DUET Serve",
        version=duet.__version__,
        description="Generates the parameters of on-device models, for one device at one moment.",
        docs_url=None,
        redoc_url=None,
    )
    generation = Generation(gateway, access)
    guarded: ASGIApp = generation
    if access.keys is not None:
        app.add_middleware(KeyCheck, keys=access.keys)
        guarded = KeyCheck(generation, keys=access.keys)
    bounded = partial(
        Boundary,
        body_limit_bytes=body_limit_bytes,
        body_timeout_s=body_timeout_s,
        on_refusal=gateway.telemetry.refused,
    )
    app.add_middleware(bounded)
    app.generation = Doorway(bounded(guarded), Door(gateway.room, on_refusal=gateway.telemetry.refused))
    app.add_exception_handler(DuetError, _duet_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _parameter_error)
    _add_parameters(app, generation)
    _add_models(app, gateway, access)
    _add_probes(app, gateway)
    _add_metadata(app, gateway, metadata)
    openapi.install(app, key_free=None if access.keys is None else OPEN_PATHS)
    return app


class _Api(FastAPI):
    """FastAPI, except that requests for parameters go straight to who answers them, behind the same middleware."""

    generation: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] == "http" and model_of(scope) is not None:
            await self.generation(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _add_parameters(app: FastAPI, generation: Generation) -> None:
    answer = openapi.binary("The parameters.", PACKAGE, ONNX, headers=_ANSWER_HEADERS)
    answer["content"][JSON] = {"schema": openapi.reference(PackageAnswer)}
    kept = {
        "description": "The device holds what it would get, or better: keep it.",
        "headers": openapi.header_descriptions(_ANSWER_HEADERS),
    }
    failures = openapi.problem_responses(
        InvalidRequest,
        UnknownModel,
        NotAcceptable,
        BodyTooLarge,
        UnsupportedMediaType,
        InvalidSample,
        InvalidEmbedding,
        WrongEncoder,
        BudgetTooSmall,
        Overloaded,
        NonFiniteParameters,
        VersionNotReady,
        DeadlineExceeded,
        RequestTooSlow,
        *_GUARDED,
    )
    framed = "A sample of bytes: the length of the JSON (u32, little-endian), the JSON of `RequestFields`, the sample."
    binary = {"schema": {"type": "string", "format": "binary", "description": framed}}
    body = {"required": True, "content": {JSON: {"schema": openapi.reference(ParametersRequest)}, BINARY: binary}}

    async def generate_parameters(model: ModelName, request: Request) -> Response:
        """Generate the parameters that suit a sample, in the best representation that arrives within the budget.

        The device sends the sample, or the embedding that it has made of it.
        """
        answer = await generation.answer(model, request.scope, request.receive)
        return Response(answer.content, answer.status, answer.headers, answer.media_type)

    app.router.add_api_route(
        "/v1/models/{model}/parameters",
        generate_parameters,
        methods=["POST"],
        operation_id="generate_parameters",
        tags=["parameters"],
        response_class=Response,
        responses={200: answer, 204: kept, **failures},
        openapi_extra={"requestBody": body},
    )


def _add_models(app: FastAPI, gateway: Gateway, access: Access) -> None:
    failures = openapi.problem_responses(InvalidRequest, UnknownModel, UnknownVersion, CorruptVersion, *_GUARDED)
    not_modified = {"description": "The client holds this file.", "headers": openapi.header_descriptions(_FILE_HEADERS)}
    manifest = openapi.json_object("The manifest, byte for byte.", headers=_FILE_HEADERS)

    @app.get("/v1/models", operation_id="list_models", tags=["models"], responses=openapi.problem_responses(*_GUARDED))
    async def list_models() -> ModelList:
        """List the models that are served, with their versions."""
        return ModelList(models=await gateway.catalog.summaries())

    @app.get(
        "/v1/models/{model}",
        operation_id="get_manifest",
        tags=["models"],
        response_class=Response,
        responses={200: manifest, 304: not_modified, **failures},
    )
    async def get_manifest(
        model: ModelName, request: Request, version: VersionName = None, device: DeviceName = None
    ) -> Response:
        """Get the manifest of a version: its signature, layers, hashes and measured quality."""
        served = await gateway.catalog.version(model, version, device=device)
        sha256 = served.manifest_sha256
        content = served.published.manifest_bytes
        headers = access.signed(served.headers, content)
        return _file(request, headers, content, sha256, JSON, is_pinned=version is not None)

    # their hashes stand in the manifest, which is signed
    for path, file, media_type, read, meaning in (
        (
            "device-model",
            "device.onnx",
            ONNX,
            attrgetter("device_model"),
            "Download the model that runs on the device, with the shared parameters in place.",
        ),
        (
            "encoder",
            ENCODER_FILE,
            ONNX,
            attrgetter("encoder"),
            "Download the encoder, for a device that sends embeddings and keeps its samples.",
        ),
        (
            "decoders",
            DECODERS_FILE,
            ONNX,
            attrgetter("decoders"),
            "Download the decoders, for a device that takes embeddings and generates for itself.",
        ),
        (
            "model-card",
            CARD_NAME,
            MARKDOWN,
            attrgetter("model_card"),
            "Read what the publisher tells people of a version: data, protocol, quality, limits.",
        ),
    ):
        name = f"get_{path.replace('-', '_')}"
        answer = openapi.binary(f"The {path.replace('-', ' ')}.", media_type, headers=_FILE_HEADERS)
        app.router.add_api_route(
            f"/v1/models/{{model}}/{path}",
            _file_endpoint(gateway, file, media_type, read),
            methods=["GET"],
            name=name,
            operation_id=name,
            tags=["models"],
            description=meaning,
            response_class=Response,
            responses={200: answer, 304: not_modified, **failures},
        )

    @app.get(
        "/v1/models/{model}/rollout",
        operation_id="get_rollout",
        tags=["models"],
        responses=openapi.problem_responses(InvalidRequest, UnknownModel, VersionNotReady),
    )
    async def get_rollout(model: ModelName) -> Rollout:
        """Tell which versions every gateway sends devices to, and how a canary does."""
        return await gateway.rollouts.of(model)


def _add_probes(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/livez", operation_id="get_liveness", tags=["probes"], responses=openapi.problem_responses(*_ANYWHERE))
    async def get_liveness() -> Status:
        """Say that the process answers."""
        return Status(status="alive")

    @app.get(
        "/readyz",
        operation_id="get_readiness",
        tags=["probes"],
        responses=openapi.problem_responses(VersionNotReady, *_ANYWHERE),
    )
    async def get_readiness() -> Status:
        """Say that every stage answers and holds the active versions."""
        return Status(status="ready", models=await gateway.check())


def _add_metadata(app: FastAPI, gateway: Gateway, metadata: MetadataReader) -> None:
    @app.get("/metadata", operation_id="get_metadata", tags=["probes"], responses=openapi.problem_responses())
    async def get_metadata() -> ServerMetadata:
        """Describe the server: versions, placement, effective settings, active versions, where metrics are."""
        return await asyncio.to_thread(metadata.read, gateway.active_versions)


def _file_endpoint(
    gateway: Gateway, file: str, media_type: str, read: Callable[[ServedVersion], bytes]
) -> Callable[..., Awaitable[Response]]:
    """Answer with a file of a version, whose hash the manifest knows."""

    async def answer(
        model: ModelName, request: Request, version: VersionName = None, device: DeviceName = None
    ) -> Response:
        served = await gateway.catalog.version(model, version, device=device)
        content = read(served)
        sha256 = served.published.manifest.files[file].sha256
        return _file(request, served.headers, content, sha256, media_type, is_pinned=version is not None)

    return answer


def _file(
    request: Request, said: Mapping[str, str], content: bytes, sha256: str, media_type: str, *, is_pinned: bool
) -> Response:
    headers = {**said, "ETag": f'"{sha256}"', "Cache-Control": _IMMUTABLE if is_pinned else _CHECK_AGAIN}
    known = request.headers.get("if-none-match", "")
    tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
    if headers["ETag"] in tags or "*" in tags:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


async def _duet_error(request: Request, error: Exception) -> Response:
    return problem_response(error, request_id_of(request.scope))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path[:200]
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"  # the boundary answers it
    allowed = headers.get("Allow", "another method")
    code, detail = {
        404: ("not_found", f"Expected one of the paths of /openapi.json, got {path!r}. Correct the path."),
        405: ("method_not_allowed", f"Expected {allowed} for {path!r}, got {method}. See /openapi.json."),
    }.get(error.status_code, ("http_error", str(error.detail)))
    return plain_problem(error.status_code, code, detail, request_id_of(request.scope), headers=headers)


async def _parameter_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # the first part of a place says where the parameter stands: in the path, or in the query
    mistakes = [
        ErrorDetails(
            type=each["type"], loc=each["loc"][1:], msg=each["msg"], input=each["input"], ctx=each.get("ctx", {})
        )
        for each in error.errors()
    ]
    return await _duet_error(request, wrong_parameter(mistakes))
