"""What has waited in a socket while the loop was busy has waited; what has not, has not."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable

import pytest
import uvloop

from app.socket_wait import SocketWait

PATIENCE_S = 20.0
BUSY_S = 0.2

TOLD_S = BUSY_S if hasattr(socket, "TCP_INFO") else 0.0
"""Elsewhere the kernel does not tell."""


class Reading(asyncio.Protocol):
    """Notes for each piece that it reads how long that had been there."""

    def __init__(self, wait: SocketWait) -> None:
        self._wait = wait
        self.waited_s: list[float] = []
        self.has_read = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.waited_s.append(time.monotonic() - self._wait.arrived_s(self._transport))
        self.has_read.set()


def measured(new_loop: Callable[[], asyncio.AbstractEventLoop], before: Callable[[socket.socket], None]) -> list[float]:
    """Connect, have one byte read, do something while the loop is held up, and return all that was noted."""

    async def main() -> list[float]:
        loop, reading = asyncio.get_running_loop(), Reading(SocketWait())
        server = await loop.create_server(lambda: reading, "127.0.0.1", 0)
        async with server:
            with socket.create_connection(server.sockets[0].getsockname(), timeout=PATIENCE_S) as client:
                client.sendall(b"a")
                await asyncio.wait_for(reading.has_read.wait(), PATIENCE_S)
                reading.has_read.clear()
                before(client)
                await asyncio.wait_for(reading.has_read.wait(), PATIENCE_S)
        return reading.waited_s

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_bytes_that_lay_there_while_the_loop_was_busy_have_waited(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    def sent_and_held_up(client: socket.socket) -> None:
        client.sendall(b"b")
        threading.Event().wait(BUSY_S)

    first_s, second_s = measured(new_loop, sent_and_held_up)

    assert first_s < BUSY_S / 2
    assert second_s == pytest.approx(TOLD_S, abs=BUSY_S / 2)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_bytes_that_came_at_the_end_of_a_long_turn_have_not(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    def held_up_and_sent(client: socket.socket) -> None:
        threading.Event().wait(BUSY_S)
        client.sendall(b"b")

    _, second_s = measured(new_loop, held_up_and_sent)

    assert second_s < BUSY_S / 2


def test_after_a_short_turn_the_kernel_is_not_asked() -> None:
    class NoSocket(asyncio.Transport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            raise AssertionError("asked")

    async def main() -> list[float]:
        now_s = iter([1.0, 1.001, 1.002, 1.003])
        wait = SocketWait(lambda: next(now_s))
        found = [wait.arrived_s(NoSocket())]
        await _turn()
        return [*found, wait.arrived_s(NoSocket()), wait.arrived_s(NoSocket())]

    # the third is read in the turn of the second, which has begun with it
    assert asyncio.run(main()) == [1.0, 1.001, 1.001]


def test_a_connection_that_is_gone_has_not_waited() -> None:
    class Gone(asyncio.Transport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            closed = socket.socket()
            closed.close()
            return closed

    async def main() -> list[float]:
        now_s = iter([1.0, 2.0])
        wait = SocketWait(lambda: next(now_s))
        found = [wait.arrived_s(Gone())]
        await _turn()
        return [*found, wait.arrived_s(Gone())]

    assert asyncio.run(main()) == [1.0, 2.0]


async def _turn() -> None:
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_soon(passed.set_result, None)
    await passed
