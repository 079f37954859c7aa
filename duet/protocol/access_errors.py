"""The failures about access: who may ask, how much, how fast; whose package it is; which files of keys can be used.

Leaves of the tree that ``duet/protocol/errors.py`` draws.
"""

# ruff: noqa: N818  # a failure is called what it is; the base classes already say that they are errors
from pathlib import Path

from duet.protocol.errors import DuetError, PackageError, RequestError, ServiceUnavailable

_SHOWN_CHARACTERS = 120


class Unauthorized(RequestError):
    """The request carries no valid API key."""

    code = "unauthorized"

    def __init__(self) -> None:
        # which of the three it is would tell a stranger that a key was once valid
        super().__init__(
            "Expected a valid API key, got none, or one that is unknown or has expired. "
            "Send the header `Authorization: Bearer …` with a key from the operator."
        )


class HeadersTooLarge(RequestError):
    """The request has more headers, or longer ones, than the server reads."""

    code = "headers_too_large"

    def __init__(self, *, limit_count: int, limit_bytes: int, received_count: int, received_bytes: int) -> None:
        super().__init__(
            f"Expected at most {limit_count} headers of {limit_bytes} bytes together, got {received_count} of "
            f"{received_bytes} bytes. Send fewer."
        )
        self.limit_count, self.limit_bytes = limit_count, limit_bytes
        self.received_count, self.received_bytes = received_count, received_bytes


class RequestTooSlow(RequestError):
    """The headers of the request, or its body, did not arrive in the time that the server gives them."""

    code = "request_too_slow"

    def __init__(self, *, limit_s: float) -> None:
        super().__init__(
            f"Expected all of the request within {limit_s:g} s, but it had not ended by then. Send it at once, or anew."
        )
        self.limit_s = limit_s


class RateLimited(ServiceUnavailable):
    """The API key has used up its rate; whoever else asks is not affected."""

    code = "rate_limited"

    def __init__(self, *, rate_per_s: float, retry_after_s: float) -> None:
        super().__init__(
            f"Expected at most {rate_per_s:g} requests a second with this API key, got more. "
            f"Retry after {retry_after_s:.3g} s."
        )
        self.rate_per_s, self.retry_after_s = rate_per_s, retry_after_s


class ForgedPackage(PackageError):
    """What came is not signed as the device expects: somebody else made it, or changed it on the way."""

    code = "forged_package"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            f"Expected an answer that is signed with a key of this device, but {_clipped(reason)}. "
            "Keep what is in place; if the cloud has a new key, install it on the device."
        )
        self.reason = reason


class CredentialError(DuetError):
    """A file of keys cannot be used."""


class InvalidKeyFile(CredentialError):
    """A file of keys is not what its format says; what stands in it is never repeated."""

    code = "invalid_key_file"

    def __init__(self, *, path: Path | str, line: int | None, expected: str, received: str, remedy: str) -> None:
        place = f"{path}, line {line}" if line is not None else str(path)
        super().__init__(f"{place}: expected {expected}, got {_clipped(received)}. {remedy}")
        self.path, self.line = str(path), line
        self.expected, self.received, self.remedy = expected, received, remedy


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
