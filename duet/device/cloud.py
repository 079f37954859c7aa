"""Speaks the cloud's HTTP interface for one model: three requests, each bounded in time and in bytes.

Every way in which the cloud can fail leaves here as a leaf of ``duet.protocol.errors``.
"""

import inspect
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import httpx

from duet.protocol.access_errors import Unauthorized
from duet.protocol.canonical_json import encode_json
from duet.protocol.errors import (
    CloudUnreachable,
    DuetError,
    GenerationError,
    InvalidName,
    InvalidRequest,
    Overloaded,
    RequestError,
    ServiceUnavailable,
)
from duet.protocol.manifest import MODEL_NAME
from duet.protocol.package import MEDIA_TYPE
from duet.protocol.request_frame import MEDIA_TYPE as BINARY
from duet.protocol.request_frame import join_request
from duet.protocol.signing import HEADER as SIGNATURE
from duet.protocol.signing import SigningKey, check_signature

PROBLEM_BYTES = 65536
"""Longest error body that is read."""

MANIFEST_BYTES = 4 * 2**20
"""Longest manifest that is read."""

DOWNLOAD_TIMEOUT_S = 120.0
"""A manifest or a device model that takes longer than this is given up."""

MAX_RETRY_AFTER_S = 3600.0
"""A longer ``Retry-After`` counts as this: no cloud can silence a device for good."""

_EXPECTED_URL = "Expected the cloud's address, http:// or https:// and a host, such as http://127.0.0.1:8000"
_SHOWN_CHARACTERS = 600
_MAX_PORT = 65535
_API_KEY = re.compile(r"[!-~]+")

_LEAVES = {
    leaf.code: leaf
    for branch in (RequestError, ServiceUnavailable, GenerationError)
    for leaf in branch.__subclasses__()
}


@dataclass(frozen=True)
class Answer:
    """What came back, whole.

    Attributes:
        status: HTTP status, 200 or 204.
        headers: By name, in any case.
        body: At most as many bytes as were allowed.
        bytes_up: Request line, headers and body that were sent.
        bytes_down: Status line, headers and body that came back.
        attempts: 2 if the request was repeated.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    bytes_up: int
    bytes_down: int
    attempts: int = 1


def check_url(url: str) -> None:
    """Refuse an address that no request can go to.

    Raises:
        ValueError: If it is not ``http://`` or ``https://``, a host, and perhaps a port and a path.
    """
    try:
        address = httpx.URL(url)
        # as a socket will encode it, which is stricter than httpx
        host = address.raw_host.decode("ascii").encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"{_EXPECTED_URL}, got {url!r} ({error}).") from error
    if address.scheme not in ("http", "https") or not host:
        raise ValueError(f"{_EXPECTED_URL}, got {url!r}.")
    if address.port is not None and not 1 <= address.port <= _MAX_PORT:
        raise ValueError(f"{_EXPECTED_URL}, got {url!r} with a port that is not from 1 to {_MAX_PORT}.")


class Cloud:
    """Owns a pool of connections to one cloud, for one model.

    Keeps nothing of an exchange but until when the cloud asked to be left alone.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        signing_keys: Sequence[SigningKey] = (),
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the line; nothing is sent yet.

        Args:
            url: Address of the cloud.
            model: Name of the model.
            api_key: Sent with every request, where the cloud asks for one.
            signing_keys: A manifest or a package that is signed with none of these is refused; none asks for none.
            headers: Sent with every request.
            transport: What carries the requests instead of the network.
            clock: Seconds that never go back.

        Raises:
            ValueError: If the address or the API key is not usable.
            InvalidName: If ``model`` is no model name.
        """
        check_url(url)
        if api_key is not None and not _API_KEY.fullmatch(api_key):
            raise ValueError("Expected an API key of printable ASCII characters without spaces, got something else.")
        if not MODEL_NAME.fullmatch(model):
            raise InvalidName(name=model)
        self.url = f"{url.rstrip('/')}/v1/models/{model}"
        self._clock = clock
        self._quiet_until = -math.inf
        # identity: a package hardly compresses, and what is counted is what came over the wire
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        if api_key is not None:
            sent["Authorization"] = f"Bearer {api_key}"
        self._signing_keys = tuple(signing_keys)
        self._client = httpx.Client(headers=sent, transport=transport, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def manifest(self, version: str | None = None, *, device: str | None = None) -> bytes:
        """Download the manifest of ``version``, or of the one that ``device`` is served, or of the active one.

        Raises:
            DuetError: If the cloud refuses, fails or cannot be reached.
        """
        query = {"device": device} if version is None else {"version": version}
        return self._believed(self._download("", query, MANIFEST_BYTES)).body

    def file(self, route: str, version: str, size_bytes: int) -> bytes:
        """Download a file of ``version``, of at most the size that its manifest names; its hash stands there too.

        Args:
            route: ``"device-model"``, ``"encoder"`` or ``"decoders"``.
            version: Name of the version.
            size_bytes: Of the file.

        Raises:
            DuetError: If the cloud refuses, fails or cannot be reached.
        """
        return self._download(f"/{route}", {"version": version}, size_bytes).body

    def parameters(
        self, request: Mapping[str, object], *, budget_ms: float, timeout_s: float, limit_bytes: int
    ) -> Answer:
        """Ask for parameters; once more with what is left of the budget if the connection breaks or the answer is 500.

        Not once more when nothing is left of the budget, or of ``timeout_s``.

        Asking changes nothing in the cloud, so asking twice is safe. After an answer 429, or 503 with ``Retry-After``,
        nothing is sent until that time has passed.

        Args:
            request: The fields of docs/api.md without the budget; a sample of bytes makes it a binary request.
            budget_ms: From now to the last byte received.
            timeout_s: Each wait on the network is cut off after this time, and a body that trickles too.
            limit_bytes: Longest body that is read.

        Returns:
            The answer, 200 or 204.

        Raises:
            DuetError: If the cloud refuses, fails or cannot be reached.
        """
        started = self._clock()
        if started < self._quiet_until:
            raise Overloaded(retry_after_s=round(self._quiet_until - started, 3))
        try:
            return self._believed(self._ask({**request, "budget_ms": budget_ms}, timeout_s, limit_bytes))
        except _BrokenError as error:
            elapsed_s = self._clock() - started
            left_ms = budget_ms - elapsed_s * 1000
            left_s = timeout_s - elapsed_s
            if left_ms <= 0 or left_s <= 0:
                raise error.told(self.url) from error
        try:
            answer = self._ask({**request, "budget_ms": left_ms}, left_s, limit_bytes)
        except _BrokenError as error:
            raise error.told(self.url, more=", twice") from error
        return self._believed(replace(answer, attempts=2))

    def _ask(self, request: Mapping[str, object], timeout_s: float, limit_bytes: int) -> Answer:
        sample = request.get("sample")
        if isinstance(sample, bytes):
            fields = encode_json({name: value for name, value in request.items() if name != "sample"})
            content, content_type = join_request(fields, sample), BINARY
        else:
            content, content_type = encode_json(request), "application/json"
        headers = {"Content-Type": content_type, "Accept": MEDIA_TYPE}
        sent = self._client.build_request(
            "POST", f"{self.url}/parameters", content=content, headers=headers, timeout=timeout_s
        )
        return self._exchange(sent, timeout_s=timeout_s, limit_bytes=limit_bytes)

    def _believed(self, answer: Answer) -> Answer:
        if self._signing_keys and answer.status == 200:
            check_signature(answer.body, answer.headers.get(SIGNATURE), self._signing_keys)
        return answer

    def _download(self, path: str, query: Mapping[str, str | None], limit_bytes: int) -> Answer:
        params = {name: value for name, value in query.items() if value is not None}
        sent = self._client.build_request("GET", self.url + path, params=params or None, timeout=DOWNLOAD_TIMEOUT_S / 4)
        try:
            return self._exchange(sent, timeout_s=DOWNLOAD_TIMEOUT_S, limit_bytes=limit_bytes)
        except _BrokenError as error:
            raise error.told(self.url) from error

    def _exchange(self, request: httpx.Request, *, timeout_s: float, limit_bytes: int) -> Answer:
        started = self._clock()
        deadline = started + timeout_s
        try:
            response = self._client.send(request, stream=True)
            try:
                limit = limit_bytes if response.is_success else PROBLEM_BYTES
                body = self._read(response, deadline=deadline, limit_bytes=limit)
            finally:
                response.close()
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise _BrokenError(_reason(error)) from error
        except httpx.TimeoutException as error:
            reason = f"none came within {self._clock() - started:.3g} s"
            raise CloudUnreachable(url=self.url, reason=reason) from error
        except httpx.HTTPError as error:
            raise CloudUnreachable(url=self.url, reason=_reason(error)) from error
        except RuntimeError as error:
            if not self._client.is_closed:
                raise
            raise CloudUnreachable(url=self.url, reason="this line to it was closed") from error
        first_lines = (
            f"{request.method} {request.url.raw_path.decode()} HTTP/1.1",
            f"HTTP/1.1 {response.status_code} {response.reason_phrase}",
        )
        answer = Answer(
            status=response.status_code,
            headers=response.headers,
            body=body,
            bytes_up=_head_bytes(first_lines[0], request.headers) + len(request.content),
            bytes_down=_head_bytes(first_lines[1], response.headers) + len(body),
        )
        if answer.status in (200, 204):
            return answer
        if answer.status == 429 or (answer.status == 503 and "retry-after" in answer.headers):
            self._quiet_until = self._clock() + _retry_after_s(answer)
        raise _refusal(answer, self.url)

    def _read(self, response: httpx.Response, *, deadline: float, limit_bytes: int) -> bytes:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > limit_bytes:
                raise CloudUnreachable(url=self.url, reason=f"it answered more than the {limit_bytes} bytes expected")
            if self._clock() > deadline:
                raise CloudUnreachable(url=self.url, reason="its answer did not end in time")
        return bytes(body)


class _BrokenError(Exception):
    """The connection broke, or the cloud failed inside: the request may be repeated."""

    def told(self, url: str, *, more: str = "") -> CloudUnreachable:
        """Make the error for when it is not."""
        error = CloudUnreachable(url=url, reason=f"{self}{more}")
        for note in getattr(self, "__notes__", ()):
            error.add_note(note)
        return error


def _refusal(answer: Answer, url: str) -> Exception:
    """Say what an answer other than 200 and 204 means, as precisely as its problem document allows.

    A failure of the cloud's own has what its operator needs as notes: the whole detail, and the id of the request.
    """
    problem = _problem(answer.body)
    error = _meaning(answer, problem, url)
    if answer.status >= 500:
        detail, request_id = (_printable(problem.get(name)) for name in ("detail", "request_id"))
        if detail and detail not in str(error):
            error.add_note(f"The cloud said: {detail}")
        if request_id:
            error.add_note(f"Request id: {request_id}")
    return error


def _meaning(answer: Answer, problem: Mapping[str, object], url: str) -> Exception:
    code, detail = problem.get("code"), problem.get("detail")
    leaf = _LEAVES.get(code) if isinstance(code, str) else None
    retry = {"retry_after_s": _retry_after_s(answer)} if answer.status in (429, 503) else {}
    rebuilt = _rebuilt(leaf, {**problem, **retry}) if leaf else None
    if rebuilt:
        return rebuilt
    if answer.status == 401:
        return Unauthorized()
    if answer.status == 429:
        return Overloaded(retry_after_s=_retry_after_s(answer))
    said = f"it answered {answer.status}" + (f", {_printable(code)}" if code else "")
    if 400 <= answer.status < 500:
        told = f": {_printable(detail).rstrip('.')}." if detail else "."
        remedy = "Check that the address is that of a DUET server, and that it is of the version of this library."
        return InvalidRequest(detail=f"Expected an answer from {url}, but {said}{told} {remedy}")
    return _BrokenError(said) if answer.status == 500 else CloudUnreachable(url=url, reason=said)


def _retry_after_s(answer: Answer) -> float:
    """Read ``Retry-After``; 1 s where it is missing or is a date."""
    try:
        seconds = float(answer.headers.get("retry-after", ""))
    except ValueError:
        return 1.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else 1.0


def _problem(body: bytes) -> dict[str, object]:
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}


def _rebuilt(leaf: type[DuetError], facts: Mapping[str, object]) -> DuetError | None:
    names = list(inspect.signature(leaf).parameters)
    if not facts.keys() >= set(names):
        return None
    try:
        return leaf(**{name: facts[name] for name in names})
    except (TypeError, ValueError, OverflowError, RecursionError):  # the facts came from outside
        return None


def _printable(value: object) -> str:
    """Show what came from outside on one line of bounded length; nothing for what is no text."""
    text = value[:_SHOWN_CHARACTERS] if isinstance(value, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _head_bytes(first_line: str, headers: httpx.Headers) -> int:
    lines = sum(len(name) + len(value) + len(": \r\n") for name, value in headers.raw)
    return len(first_line) + lines + len("\r\n\r\n")
