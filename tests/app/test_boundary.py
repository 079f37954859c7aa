"""The boundary limits bodies whatever their headers say, names requests, and answers when nothing else does."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.boundary import Boundary, request_id_of
from deployments.logs import REQUEST_ID

LIMIT_BYTES = 1000


async def echo_length(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(f"{len(body)} {request_id_of(scope)}")(scope, receive, send)


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("secret")


async def in_pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 100


def client(app: object = echo_length) -> httpx.AsyncClient:
    boundary = Boundary(app, body_limit_bytes=LIMIT_BYTES)
    return httpx.AsyncClient(transport=httpx.ASGITransport(boundary), base_url="http://test")


@pytest.mark.parametrize("size", [0, 1, LIMIT_BYTES])
async def test_a_body_within_the_limit_passes(size: int) -> None:
    answer = await client().post("/", content=b"x" * size)

    assert answer.status_code == 200
    assert answer.text.split()[0] == str(size)


async def test_a_body_that_declares_too_many_bytes_is_refused() -> None:
    answer = await client().post("/", content=b"x" * (LIMIT_BYTES + 1))

    assert answer.status_code == 413
    assert answer.json()["received_bytes"] == LIMIT_BYTES + 1
    assert answer.json()["limit_bytes"] == LIMIT_BYTES


async def test_a_streamed_body_is_cut_off_at_the_limit() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 100
            yield b"x" * 100

    answer = await client().post("/", content=endless())

    assert answer.status_code == 413
    assert read <= LIMIT_BYTES + 200


async def test_a_streamed_body_within_the_limit_passes() -> None:
    answer = await client().post("/", content=in_pieces(10))

    assert answer.text.split()[0] == "1000"


@pytest.mark.parametrize("length", ["many", "-1", "9" * 400])
async def test_a_length_that_is_no_count_is_refused(length: str) -> None:
    answer = await client().post("/", headers={"content-length": length})

    assert answer.status_code == 400


async def test_a_request_without_an_id_gets_one_and_a_given_one_is_kept() -> None:
    fresh = await client().get("/")
    named = await client().get("/", headers={"x-request-id": "mine"})

    assert fresh.headers["x-request-id"] == fresh.text.split()[1]
    assert named.text.split()[1] == "mine"


async def test_an_unforeseen_error_is_logged_whole_and_answered_with_a_fixed_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await client(broken).get("/", headers={"x-request-id": "r-1"})

    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert answer.json()["request_id"] == "r-1"
    assert "secret" not in json.dumps(answer.json())
    assert "secret" in caplog.text
    assert "r-1" in caplog.text


async def test_what_is_said_meanwhile_carries_the_id_of_the_request() -> None:
    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(REQUEST_ID.get())(scope, receive, send)

    answers = [await client(told).get("/", headers={"x-request-id": name}) for name in ("first", "second")]

    assert [answer.text for answer in answers] == ["first", "second"]
