"""Requests damaged byte by byte: bodies, headers and framing, and what may be answered to each, over plain sockets."""

import json
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from app.problems import MEDIA_TYPE, STATUS
from duet.protocol.embedding_upload import spelt
from duet.registry import PublishedVersion

REPLY_S = 15.0
"""No answer takes longer: a body has 10 s to arrive, a budget is 10 s at most."""

DESIGNED = frozenset({503, 504})
"""The answers of 500 and above that are promised: ``version_not_ready`` and ``deadline_exceeded``."""

Damage: TypeAlias = Literal["body", "headers", "framing"]

_REFUSALS = frozenset(status for status in STATUS.values() if status < 500) | {405} | DESIGNED
_PIECE_BYTES = 65_536
_BLOCK_BYTES = 200
_TOO_LARGE_BYTES = 2 * 2**20
_LIST_SHARE = 0.25
_CONTINUE = b"HTTP/1.1 100 "
# what stands for a value in JSON, and what is none
_ODD_VALUES = (
    *(b"NaN", b"Infinity", b"-Infinity", b"-0", b"1e999", b"-1e-999", b"0x10", b"01", b"9" * 5000, b"1" + b"0" * 400),
    *(
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b'"\\ud800"',
        b'"\\u0000"',
        b'"\xff\xfe"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
    ),
    *(
        b"[" * 200 + b"]" * 200,
        b"[" * 20_000,
        b'{"a":' * 5_000,
        b'"' + b"a" * 70_000 + b'"',
        b"[" + b"1," * 20_000 + b"1]",
    ),
    # embeddings: too short, infinite, beyond float16, no base64, no numbers
    *(b'"AAAA"', b'"AHwAfAB8AHwAfAB8AHwAfA=="', b'"AHw="', b'"AA=A"', b'"A"', b'"=="', b'"-_-_"', b'"AAAA\\n"'),
    *(b"[65504,-65504,65520]", b"[" + b"65504," * 7 + b"65504]", b"[1e308]", b"[[0.5]]", b"[true]", b"[null,0.5]"),
    *(b"18446744073709551616", b"-9223372036854775809", b"1.5e308", b"5e-324", b"1e-7", b'"5g"', b'"wifi"', b"1E400"),
)
_ODD_BYTES = (
    b"\xef\xbb\xbf",
    b"\x00",
    b"\xff",
    b"\xf4\x90\x80\x80",
    b"\xe2\x80\xa8",
    b"\r\n",
    b"//",
    b",",
    b'"',
    b"\\",
    b"}",
)
_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|\[|\]|\{|\}|true|false|null')
_FIELD = re.compile(rb'"\w+":')
# together below the 15 KiB from which HAProxy answers in its own way
_HEADERS = {
    b"accept": (
        b"*/*",
        b"application/onnx",
        b"application/json;q=nan",
        b"text/html",
        b";q=1,,;",
        b"a/b;q=x",
        b"a/b;q=" + b"9" * 300,
    ),
    b"content-type": (
        b"application/json",
        b"application/json; charset=utf-16",
        b"text/plain",
        b"",
        b";",
        b"APPLICATION/JSON",
    ),
    b"content-encoding": (b"identity", b"gzip", b"br, identity", b"", b" , ", b"IDENTITY"),
    b"traceparent": (
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"00-00000000000000000000000000000000-0000000000000000-00",
        b"ff-xyz",
        b"-" * 60,
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-zz",
    ),
    b"x-request-id": (b"r-1", b"r" * 2000, b" ", b"{}%s\t"),
    b"x-request-timeout-seconds": (b"0", b"-1", b"nan", b"soon"),
    b"if-none-match": (b"*", b"W/", b'"', b",,,"),
    b"authorization": (b"Bearer ", b"Basic x", b"Bearer duet_x_y"),
    b"x-forwarded-for": (b"::1", b"nowhere", b"," * 100),
}
_FIXED = [(b"host", b"a"), (b"connection", b"close"), (b"content-type", b"application/json")]
_LENGTHS = (b"0", b"1", b"-1", b"+5", b"5_0", b"many", b"", b"9" * 400, b"1e3", b"0x10", b"99999999")


@dataclass(frozen=True)
class Upload:
    """One request, as it goes over the wire.

    Attributes:
        content: All of its bytes.
        damage: What was damaged; where the framing is whole, the application answers, and does so as documented.
    """

    content: bytes
    damage: Damage


@dataclass(frozen=True)
class Reply:
    """What came back: status 0 if nothing did, which only a request of broken framing may get."""

    status: int
    content_type: str
    content: bytes
    took_s: float


def uploads(path: str, bodies: Sequence[bytes]) -> st.SearchStrategy[Upload]:
    """Damage good requests.

    Args:
        path: Where they go.
        bodies: Good ones, JSON objects.
    """

    @st.composite
    def damaged(draw: DrawFn) -> Upload:
        damage: Damage = draw(st.sampled_from(("body", "body", "headers", "framing")))
        body = draw(st.sampled_from(bodies))
        headers = _FIXED
        if damage == "body":
            for _ in range(draw(st.integers(1, 4))):
                body = draw(st.sampled_from(_MUTATIONS))(draw, body)
        elif damage == "headers":
            odd = draw(st.lists(_header(), min_size=1, max_size=6))
            headers = [*(pair for pair in headers if pair[0] not in dict(odd)), *odd]
        lengths = [_length(body)]
        if damage == "framing":
            lengths, body = draw(_framing(body))
        content = _spelt(path, [*headers, *lengths], body)
        if damage == "framing":
            for _ in range(draw(st.integers(0, 3))):
                content = draw(st.sampled_from((_flip, _cut, _insert, _repeat)))(draw, content)
        return Upload(content, damage)

    return damaged()


def embedded(body: str, published: PublishedVersion) -> str:
    """Make a request of an embedding, of random numbers, out of one of a sample, unless the version takes none."""
    upload, request = published.manifest.embedding_upload, json.loads(body)
    if upload is None:
        return body
    draws = random.Random(body)
    values = [round(draws.uniform(-1, 1), 3) for _ in range(upload.dim)]
    del request["sample"]
    spelling = values if draws.random() < _LIST_SHARE else spelt(upload.read(values))
    return json.dumps(request | {"embedding": {"version": published.digest.hex(), "values": spelling}})


def replacements(path: str, body: bytes) -> Iterator[Upload]:
    """Put every odd value in the place of every value of a body, one at a time."""
    for found in _VALUE.finditer(body):
        for odd in _ODD_VALUES:
            damaged = body[: found.start()] + odd + body[found.end() :]
            yield Upload(_spelt(path, [*_FIXED, _length(damaged)], damaged), "body")


def exchange(host: str, port: int, upload: Upload) -> Reply:
    """Send a request and read until the server closes the connection.

    Raises:
        TimeoutError: If it does not within ``REPLY_S``.
    """
    started_s, received = time.monotonic(), b""
    with socket.create_connection((host, port), timeout=REPLY_S) as connection:
        try:
            connection.sendall(upload.content)
            if upload.damage == "framing":  # or it waits for more, as it should
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(_PIECE_BYTES):
                received += piece
                connection.settimeout(max(0.001, started_s + REPLY_S - time.monotonic()))
        except TimeoutError:
            raise
        except OSError:
            received += _rest(connection)  # it has answered before it had read everything
    head, _, content = received.partition(b"\r\n\r\n")
    if head.startswith(_CONTINUE):
        head, _, content = content.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    status = int(lines[0].split(" ")[1]) if head else 0
    return Reply(status, fields.get("content-type", ""), content, time.monotonic() - started_s)


def complaint(upload: Upload, reply: Reply) -> str | None:
    """Say what is wrong with an answer, if anything is."""
    if reply.status >= 500 and reply.status not in DESIGNED:
        return f"a failure of the server: {reply.status}"
    if upload.damage == "framing":
        return None  # who reads the framing may answer in its own way, or hang up
    if reply.status in (200, 204):
        return None
    if reply.status not in _REFUSALS:
        return f"not a documented status: {reply.status}"
    if reply.content_type != MEDIA_TYPE:
        return f"expected {MEDIA_TYPE}, got {reply.content_type!r}"
    problem = json.loads(reply.content)
    if problem["status"] != reply.status or not {"code", "detail", "request_id"} <= problem.keys():
        return f"not a problem document: {problem}"
    return None


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", str(len(body)).encode()


def _spelt(path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
    lines = [b"POST %s HTTP/1.1" % path.encode(), *(b"%s: %s" % pair for pair in headers), b"", body]
    return b"\r\n".join(lines)


def _rest(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_PIECE_BYTES)
    except OSError:
        return b""


@st.composite
def _header(draw: DrawFn) -> tuple[bytes, bytes]:
    name = draw(st.sampled_from(sorted(_HEADERS)))
    value: bytes = draw(st.sampled_from(_HEADERS[name]))
    return name, value


@st.composite
def _framing(draw: DrawFn, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    length = str(len(body)).encode()
    lie = draw(st.sampled_from((*_LENGTHS, length, str(len(body) + 7).encode(), str(len(body) - 7).encode())))
    chunked = (b"transfer-encoding", b"chunked")
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (draw(st.sampled_from((len(body), len(body) + 1, 0, 2**63))), body)
    headers: tuple[list[tuple[bytes, bytes]], bytes] = draw(
        st.sampled_from(
            (
                ([(b"content-length", lie)], body),
                ([(b"content-length", lie), (b"content-length", length)], body),
                ([], body),
                ([chunked], chunk),
                ([chunked, (b"content-length", lie)], chunk),
                ([(b"expect", b"100-continue"), (b"content-length", length)], body),
            )
        )
    )
    return headers


def _place(draw: DrawFn, body: bytes) -> int:
    return draw(st.integers(0, len(body)))


def _flip(draw: DrawFn, body: bytes) -> bytes:
    place, mask = _place(draw, body), draw(st.integers(1, 255))
    return body[:place] + bytes(byte ^ mask for byte in body[place : place + 1]) + body[place + 1 :]


def _cut(draw: DrawFn, body: bytes) -> bytes:
    place = _place(draw, body)
    return body[:place] + body[place + draw(st.integers(1, _BLOCK_BYTES)) :]


def _insert(draw: DrawFn, body: bytes) -> bytes:
    place = _place(draw, body)
    return (
        body[:place] + draw(st.one_of(st.sampled_from(_ODD_BYTES), st.binary(min_size=1, max_size=20))) + body[place:]
    )


def _repeat(draw: DrawFn, body: bytes) -> bytes:
    place = _place(draw, body)
    block = body[place : place + draw(st.integers(1, _BLOCK_BYTES))]
    return body[:place] + block * draw(st.integers(2, 500)) + body[place:]


def _replace(draw: DrawFn, body: bytes) -> bytes:
    """Put another value where one stands."""
    spans = [found.span() for found in _VALUE.finditer(body)] or [(0, len(body))]
    start, end = draw(st.sampled_from(spans[:200]))
    return body[:start] + draw(st.sampled_from(_ODD_VALUES)) + body[end:]


def _duplicate(draw: DrawFn, body: bytes) -> bytes:
    """Give a field twice."""
    names = [found.group() for found in _FIELD.finditer(body)] or [b'"device":']
    return b"{" + draw(st.sampled_from(names[:50])) + draw(st.sampled_from(_ODD_VALUES)) + b"," + body[1:]


def _swell(draw: DrawFn, body: bytes) -> bytes:
    """Make it longer than any limit, in white space that means nothing."""
    place = _place(draw, body)
    return body[:place] + b" " * _TOO_LARGE_BYTES + body[place:]


def _mark(draw: DrawFn, body: bytes) -> bytes:
    del draw
    return b"\xef\xbb\xbf" + body


_MUTATIONS: tuple[Callable[[DrawFn, bytes], bytes], ...] = (
    *(_flip, _cut, _insert, _repeat),
    *(_replace, _replace, _replace),
    *(_duplicate, _mark, _swell),
)
