"""The OpenAPI document: what the routes declare, completed with what they read and how they fail."""

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.problems import MEDIA_TYPE, STATUS
from app.schemas import PackageAnswer, ParametersRequest, Problem, RequestFields
from duet.protocol.errors import DuetError

Document = dict[str, Any]
"""A JSON document whose form the OpenAPI specification fixes."""

_KEY, _KEY_MEANING = "api_key", "An API key, made by `duet keys create`."
_REFERENCE = "#/components/schemas/{model}"
# read and written by hand on the hot path, so FastAPI does not see them
_MESSAGES: tuple[type[BaseModel], ...] = (ParametersRequest, RequestFields, PackageAnswer, Problem)


def reference(message: type[BaseModel]) -> Document:
    """Refer to the schema of a message."""
    return {"$ref": _REFERENCE.format(model=message.__name__)}


def problem_responses(*failures: type[DuetError]) -> dict[int | str, Document]:
    """Describe how a route fails, by status; every route may fail with 500."""
    codes: dict[int, list[str]] = {500: ["internal_error"]}
    for failure in failures:
        codes.setdefault(STATUS[failure], []).append(failure.code)
    content = {MEDIA_TYPE: {"schema": reference(Problem)}}
    return {
        status: {
            "description": f"{HTTPStatus(status).phrase}: " + ", ".join(f"`{code}`" for code in names),
            "content": content,
        }
        for status, names in sorted(codes.items())
    }


def binary(description: str, *media_types: str, headers: Mapping[str, str] | None = None) -> Document:
    """Describe an answer of bytes."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types}
    return {"description": description, "content": content, "headers": header_descriptions(headers or {})}


def json_object(description: str, *, headers: Mapping[str, str] | None = None) -> Document:
    """Describe an answer that is a JSON object of a form of its own."""
    content = {"application/json": {"schema": {"type": "object"}}}
    return {"description": description, "content": content, "headers": header_descriptions(headers or {})}


def header_descriptions(headers: Mapping[str, str]) -> Document:
    """Describe headers by what they say."""
    return {name: {"description": says, "schema": {"type": "string"}} for name, says in headers.items()}


def install(app: FastAPI, *, key_free: Collection[str] | None = None) -> None:
    """Make ``app`` serve the complete document.

    Args:
        app: Whose routes.
        key_free: Paths that need no API key where the others do; None where nobody is asked for one.
    """

    def document() -> Document:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            modes = [(message, "validation") for message in _MESSAGES]
            _, definitions = models_json_schema(modes, ref_template=_REFERENCE)  # type: ignore[arg-type]
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(definitions["$defs"])
            _drop_validation_errors(schema)
            if key_free is not None:
                _ask_for_keys(schema, key_free)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _ask_for_keys(schema: Document, key_free: Collection[str]) -> None:
    schema["components"]["securitySchemes"] = {_KEY: {"type": "http", "scheme": "bearer", "description": _KEY_MEANING}}
    schema["security"] = [{_KEY: []}]
    for path in key_free:
        for operation in schema["paths"].get(path, {}).values():
            operation["security"] = []


def _drop_validation_errors(schema: Document) -> None:
    """Take out the 422 that FastAPI adds to every operation with parameters: here it is a 400, and a problem."""
    for methods in schema["paths"].values():
        for operation in methods.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
