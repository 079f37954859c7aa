"""What one turn of the loop writes goes out in one piece; nothing written is lost when a connection ends."""

import asyncio

import pytest

from app.joined_writes import JoinedWrites


class Recording(asyncio.Transport):
    """Remembers what it is asked to do."""

    def __init__(self) -> None:
        super().__init__({"peername": ("a", 1)})
        self.done: list[object] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("close")

    def write_eof(self) -> None:
        self.done.append("eof")

    def abort(self) -> None:
        self.done.append("abort")

    def get_write_buffer_size(self) -> int:
        return 5


async def turn() -> None:
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_soon(passed.set_result, None)
    await passed


def joined() -> tuple[JoinedWrites, Recording]:
    recording = Recording()
    return JoinedWrites(recording, asyncio.get_running_loop()), recording


async def test_one_turn_is_one_piece() -> None:
    transport, recording = joined()

    transport.write(b"head ")
    transport.writelines([b"and ", b"body"])
    assert (recording.done, transport.get_write_buffer_size()) == ([], 18)
    await turn()
    transport.write(b"next")
    await turn()

    assert recording.done == [b"head and body", b"next"]
    assert transport.get_write_buffer_size() == 5
    assert transport.get_extra_info("peername") == ("a", 1)


async def test_much_is_passed_on_at_once_so_that_a_pause_can_be_asked_for() -> None:
    transport, recording = joined()

    transport.write(b"a" * 65_536)
    assert recording.done == []
    transport.write(b"b")
    assert recording.done == [b"a" * 65_536 + b"b"]
    await turn()

    assert len(recording.done) == 1


@pytest.mark.parametrize(("end", "said"), [("close", "close"), ("write_eof", "eof")])
async def test_what_is_held_goes_before_the_end(end: str, said: str) -> None:
    transport, recording = joined()

    transport.write(b"last words")
    getattr(transport, end)()
    await turn()

    assert recording.done == [b"last words", said]


async def test_nothing_is_sent_once_it_is_aborted() -> None:
    transport, recording = joined()

    transport.write(b"never")
    transport.abort()
    await turn()

    assert recording.done == ["abort"]
