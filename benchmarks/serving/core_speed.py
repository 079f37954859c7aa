"""How fast a core is: a small piece of work, again and again beside a measurement, and the processor time it takes.

A core of a shared machine does half of its work for a second or a minute while a neighbour is busy on the same silicon,
and nothing in the system says so. What was measured then is compared with what the core could do then: its pace, in
microseconds of processor time for the piece of work, is twice as much where it is half as fast.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

_DOCUMENT = json.dumps({"items": list(range(60)), "devices": [{"number": n, "name": str(n)} for n in range(60)]})
_PAUSE_S = 0.01
_READY_S = 10.0
_NOTHING_SEEN = "Expected times of the piece of work, got none. Measure for longer."

QUARTER_S = 0.25
"""Over which paces are summed up."""


class CoreSpeed:
    """Watches some cores from a process of its own, which takes 1 to 2 % of them, as long as the block lasts."""

    def __init__(self, cores: set[int]) -> None:
        """Prepare to watch.

        Args:
            cores: That the piece of work may run on.
        """
        self._line = [sys.executable, "-S", "-E", __file__, *map(str, sorted(cores))]
        self._seen: list[tuple[float, float]] = []
        self._has_seen = threading.Event()

    def __enter__(self) -> Self:
        """Begin, and return when the first time has been taken."""
        self._process = subprocess.Popen(self._line, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._has_seen.wait(_READY_S):
            self.__exit__(None, None, None)
            raise RuntimeError(f"Expected a first time within {_READY_S:g} s, got none.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    @property
    def process_id(self) -> int:
        """Of the process that works."""
        return self._process.pid

    def since(self, started_s: float) -> float:
        """Return the mean pace.

        Args:
            started_s: From when, by ``time.monotonic``.

        Raises:
            RuntimeError: If none has been taken since then.
        """
        times_us = [elapsed_us for at_s, elapsed_us in list(self._seen) if at_s >= started_s]
        if not times_us:
            raise RuntimeError(_NOTHING_SEEN)
        return statistics.fmean(times_us)

    def course(self, started_s: float, ended_s: float) -> list[float]:
        """Return the mean pace of every quarter of a second between two times, by ``time.monotonic``.

        Raises:
            RuntimeError: If none has been taken between them.
        """
        return course_of(list(self._seen), started_s, ended_s)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                at_s, elapsed_us = line.split()
                self._seen.append((float(at_s), float(elapsed_us)))
                self._has_seen.set()


def course_of(seen: Sequence[tuple[float, float]], started_s: float, ended_s: float) -> list[float]:
    """Sum up times of the piece of work by quarters of a second.

    Args:
        seen: When each was taken, in seconds, and the microseconds of it.
        started_s: Where the first quarter begins.
        ended_s: Where the last one ends; of what is left, half a quarter or more makes one of its own.

    Returns:
        The mean of each. Where none was taken, it is that of the quarter before, or at the start of the one after.

    Raises:
        RuntimeError: If there is none at all.
    """
    quarters: list[list[float]] = [[] for _ in range(max(1, round((ended_s - started_s) / QUARTER_S)))]
    for at_s, elapsed_us in seen:
        if 0 <= (place := math.floor((at_s - started_s) / QUARTER_S)) < len(quarters):
            quarters[place].append(elapsed_us)
    means = [statistics.fmean(times) if times else None for times in quarters]
    pace = next((mean for mean in means if mean is not None), None)
    if pace is None:
        raise RuntimeError(_NOTHING_SEEN)
    course = []
    for mean in means:
        pace = pace if mean is None else mean
        course.append(pace)
    return course


def _work_on(cores: set[int]) -> None:
    os.sched_setaffinity(0, cores)
    pause = threading.Event()
    while not pause.wait(_PAUSE_S):
        started_ns = time.thread_time_ns()
        json.dumps(json.loads(_DOCUMENT))
        elapsed_us = (time.thread_time_ns() - started_ns) / 1000
        try:
            print(time.monotonic(), elapsed_us, flush=True)
        except BrokenPipeError:  # whoever asked is gone
            os._exit(0)


if __name__ == "__main__":
    _work_on({int(core) for core in sys.argv[1:]})
