"""Limits on headers and on the pace of a body, over a real socket: what is too much or too slow is cut off."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.boundary import HEADER_LIMIT_BYTES, HEADER_LIMIT_COUNT, Boundary

BODY_TIMEOUT_S = 0.3
PATIENCE_S = 20


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    body = await request.body()
    if body == b"wait":
        # as a streamed answer does, for longer than a body may take: the answer has time of its own
        hung_up = asyncio.create_task(request.receive())
        done, _ = await asyncio.wait([hung_up], timeout=2 * BODY_TIMEOUT_S)
        for early in done:
            early.result()
        hung_up.cancel()
    await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    boundary = Boundary(echo, body_limit_bytes=1000, body_timeout_s=BODY_TIMEOUT_S)
    server = uvicorn.Server(uvicorn.Config(boundary, log_config=None, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def exchange(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send parts with pauses between them; return everything that comes until the server closes the connection.

    A part that arrives after that has it reset, which says nothing of what came before.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.wait([asyncio.create_task(reader_has_ended.wait())], timeout=pause_s)

    reader_has_ended = asyncio.Event()
    sending = asyncio.create_task(send())
    received = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            with suppress(ConnectionResetError):
                while some := await reader.read(4096):
                    received += some
        return received
    finally:
        reader_has_ended.set()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


async def test_a_body_that_trickles_is_cut_off_in_time_and_the_connection_with_it(port: int) -> None:
    started_s = time.monotonic()

    answer = await exchange(
        port, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n", *([b"x"] * 900), pause_s=0.05
    )

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 408 " in head.splitlines()[0]
    assert b"connection: close" in head.lower()
    assert json.loads(body)["code"] == "request_too_slow"
    assert json.loads(body)["limit_s"] == BODY_TIMEOUT_S
    # 900 pauses would take 45 s
    assert BODY_TIMEOUT_S <= time.monotonic() - started_s < PATIENCE_S


async def test_a_body_that_never_comes_is_cut_off_too(port: int) -> None:
    answer = await exchange(port, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")

    assert b" 408 " in answer.splitlines()[0]


async def test_a_slow_answer_is_not_a_slow_body(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.post("/", content=b"wait", timeout=PATIENCE_S)

    assert (answer.status_code, answer.text) == (200, "4 bytes")


@pytest.mark.parametrize("count", [HEADER_LIMIT_COUNT - 1, HEADER_LIMIT_COUNT, 1000])
async def test_headers_are_counted(port: int, count: int) -> None:
    lines = b"".join(b"x-%d: y\r\n" % place for place in range(count))

    answer = await exchange(port, b"GET / HTTP/1.1\r\nConnection: close\r\n" + lines + b"\r\n")

    # the line about the connection is one of them
    assert answer.split(b" ")[1] == (b"431" if count >= HEADER_LIMIT_COUNT else b"200")


@pytest.mark.parametrize("excess", [0, 1])
async def test_headers_are_weighed(port: int, excess: int) -> None:
    fixed = "Connection: close\r\nlong: \r\n"
    value = "v" * (HEADER_LIMIT_BYTES + excess - len(fixed))

    answer = await exchange(port, f"GET / HTTP/1.1\r\nConnection: close\r\nlong: {value}\r\n\r\n".encode())

    assert answer.split(b" ")[1] == (b"431" if excess else b"200")
    if excess:
        problem = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert problem["code"] == "headers_too_large"
        assert problem["received_bytes"] == HEADER_LIMIT_BYTES + 1
        assert value not in json.dumps(problem)
