"""How long what a connection reads now has lain in the kernel: a server that is late to read has not been quick.

A loop that is busy reads late. Counted from the moment of reading, a request that waited for 40 ms in front of a full
turn of the loop would look as if it had just arrived, and be answered beyond its budget without a word.
"""

import asyncio
import math
import socket
import struct
import time
from collections.abc import Callable

_ASKED_FROM_S = 0.005
"""Shorter waits are not asked for: Linux counts them in its ticks, of 1 to 10 ms."""

# tcpi_last_data_recv of struct tcp_info, tcp(7): milliseconds since the last segment with data
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_LAST_DATA = struct.Struct("=52xI")


class SocketWait:
    """Looks at the turns of the event loop that it is used on, and into the kernel after a long one (Linux only)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know of no turn yet.

        Args:
            clock: Seconds.
        """
        self._clock = clock
        self._turn_s, self._before_s = math.inf, math.inf
        self._is_in_turn = False

    def arrived_s(self, transport: asyncio.BaseTransport) -> float:
        """Tell when the last bytes that ``transport`` has just read arrived on this machine, on the clock.

        It was not there yet when the loop looked before; only if that was long ago is the kernel asked.
        """
        now_s = self._clock()
        if not self._is_in_turn:
            self._is_in_turn = True
            self._before_s, self._turn_s = self._turn_s, now_s
            asyncio.get_running_loop().call_soon(self._end_turn)
        if now_s - self._before_s < _ASKED_FROM_S or _TCP_INFO is None:
            return min(self._turn_s, now_s)
        connection = transport.get_extra_info("socket")
        try:
            waited_ms: int = _LAST_DATA.unpack(connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _LAST_DATA.size))[0]
        except OSError:  # it has been closed meanwhile
            return self._turn_s
        # the counter starts with the connection: an answer of hours is none
        return min(self._turn_s, max(self._before_s, now_s - waited_ms / 1000))

    def _end_turn(self) -> None:
        self._is_in_turn = False
