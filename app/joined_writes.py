"""A transport that sends together what one turn of the event loop writes: head and body of an answer in one packet."""

import asyncio
from collections.abc import Iterable
from typing import Any

_HELD_BYTES = 65_536
"""More is passed on at once, so that the transport below can ask for a pause."""


class JoinedWrites(asyncio.Transport):
    """Stands in front of another transport and does all that it does."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Hold nothing yet.

        Args:
            transport: What sends.
            loop: Whose turns count.
        """
        super().__init__()
        self._transport, self._loop = transport, loop
        self._held: list[bytes | bytearray | memoryview] = []
        self._held_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` at the end of this turn."""
        if not self._held:
            self._loop.call_soon(self.pass_on)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _HELD_BYTES:
            self.pass_on()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send them one after the other."""
        for data in list_of_data:
            self.write(data)

    def write_eof(self) -> None:
        """Send what is held, and then the end."""
        self.pass_on()
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        """Whether there is such an end."""
        return self._transport.can_write_eof()

    def close(self) -> None:
        """Send what is held, and close."""
        self.pass_on()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._held, self._held_bytes = [], 0
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it closes or is closed."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Tell what the transport below knows."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Read nothing more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def is_reading(self) -> bool:
        """Whether it reads."""
        return self._transport.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say when the protocol is asked to pause."""
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Count what is not sent."""
        return self._held_bytes + self._transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Tell when the protocol is asked to pause."""
        return self._transport.get_write_buffer_limits()

    def pass_on(self) -> None:
        """Send what is held."""
        held, self._held, self._held_bytes = self._held, [], 0
        if held:
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))
