"""What is left of the time of each member of a batch on its way through the stages, and who is left out of it.

    remaining = deadline - now        milliseconds [B]; 0 or less for a member that is left out

A time that is left means the same on every machine; a point on a clock does not. It only falls, so whom one stage
leaves out the next ones leave out as well, and nothing else has to be said of them. What lies on the way between two
stages is counted where the batch passes through the gateway (``pipeline.py``), not where stages hand it on directly.

Shapes: B batch of devices, L those of it that are not left out.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

Rows = TypeVar("Rows")

RemainingMs = npt.NDArray[np.float64]
"""``[B]``; infinite for who waits for ever."""


class Countdown:
    """The times of a batch at one stage, from its arrival there on."""

    def __init__(self, remaining_ms: RemainingMs, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start to count, and leave out whose time is over on arrival.

        Args:
            remaining_ms: ``[B]``, when the batch arrived.
            clock: Seconds.
        """
        self._on_arrival_ms, self._clock, self._arrived_s = remaining_ms, clock, clock()
        self.size = 0
        """L, as of the last look."""
        self.begin()

    def begin(self) -> int:
        """Leave out whose time is over by now: the batch is about to be computed.

        Returns:
            How many are not left out.
        """
        self._live = np.flatnonzero(self.remaining_ms > 0)
        self.size = len(self._live)
        return self.size

    @property
    def remaining_ms(self) -> RemainingMs:
        """What is left now, ``[B]``."""
        return self._on_arrival_ms - (self._clock() - self._arrived_s) * 1000

    def chosen(self, rows: Rows) -> Rows:
        """Return the rows of those who are not left out.

        Args:
            rows: A sequence, or an array, of B.
        """
        if self.size == len(self._on_arrival_ms):
            return rows
        if isinstance(rows, np.ndarray):
            return cast(Rows, rows[self._live])
        return cast(Rows, [cast(Sequence[object], rows)[place] for place in self._live.tolist()])

    def spread(self, rows: Rows) -> Rows:
        """Put what was computed of the chosen rows where these stood.

        Args:
            rows: A list, or an array, of L.

        Returns:
            As many as the batch has; for who is left out None, or zeros in an array.
        """
        size = len(self._on_arrival_ms)
        if self.size == size:
            return rows
        if isinstance(rows, np.ndarray):
            array = np.zeros((size, *rows.shape[1:]), rows.dtype)
            array[self._live] = rows
            return cast(Rows, array)
        listed: list[object] = [None] * size
        for place, row in zip(self._live.tolist(), cast(Sequence[object], rows), strict=True):
            listed[place] = row
        return cast(Rows, listed)
