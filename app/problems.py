"""The only table from the errors of the protocol to HTTP, and the documents that carry them (RFC 9457)."""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

from duet.protocol import access_errors, embedding_errors, errors
from duet.protocol.errors import DuetError

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[type[DuetError], int] = {
    errors.InvalidRequest: 400,
    access_errors.Unauthorized: 401,
    errors.UnknownModel: 404,
    errors.UnknownVersion: 404,
    errors.NotAcceptable: 406,
    access_errors.RequestTooSlow: 408,
    embedding_errors.WrongEncoder: 409,
    embedding_errors.WithoutDecoders: 404,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.InvalidSample: 422,
    embedding_errors.InvalidEmbedding: 422,
    errors.BudgetTooSmall: 422,
    errors.Overloaded: 429,
    access_errors.RateLimited: 429,
    access_errors.HeadersTooLarge: 431,
    errors.NonFiniteParameters: 500,
    errors.CorruptVersion: 500,
    errors.VersionNotReady: 503,
    errors.DeadlineExceeded: 504,
}
"""Every error that the cloud lets out. Any other one is a fault of ours and becomes ``internal_error``."""

_FACT_CHARACTERS = 200
# where another replica lives the next request goes there at once, and a device that waits long is worse off
_READY_AGAIN_S = "1"
_INTERNAL = (
    "The server met an error of its own. Keep the current parameters and retry later; the request id finds the cause."
)


def problem_response(error: Exception, request_id: str) -> Response:
    """Make the answer to a request that failed; one that is not in the table tells nothing of its cause."""
    status = STATUS.get(type(error)) if isinstance(error, DuetError) else None
    if status is None or not isinstance(error, DuetError):
        return plain_problem(500, "internal_error", _INTERNAL, request_id)
    facts = {
        # what a caller has sent is not sent back in full
        name: value[:_FACT_CHARACTERS] if isinstance(value, str) else value
        for name, value in error.facts.items()
        if name not in ("detail", "status", "code", "type", "title")
    }
    headers = {}
    if isinstance(error, errors.Overloaded | access_errors.RateLimited):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, errors.VersionNotReady):
        headers["Retry-After"] = _READY_AGAIN_S
    if isinstance(error, access_errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, access_errors.RequestTooSlow):
        headers["Connection"] = "close"  # the rest of the body would be read as the next request
    return plain_problem(status, error.code, str(error), request_id, facts=facts, headers=headers)


def plain_problem(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    *,
    facts: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Make a problem document.

    Args:
        status: Of the answer.
        code: What programs look at.
        detail: What was expected, what arrived, what to do.
        request_id: Finds the request in the logs.
        facts: Further members.
        headers: Further headers.
    """
    document = {
        "type": f"urn:duet:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request_id,
    }
    content = json.dumps(dict(facts or {}) | document)
    return Response(content, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)
