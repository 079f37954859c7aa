"""How fast a core is: a small piece of work, again and again beside a measurement, and the processor time it takes.

A core of a shared machine does half of its work for a second or a minute while a neighbour is busy on the same silicon,
and nothing in the system says so. What was measured then is compared with what was measured at the same speed only.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

_DOCUMENT = json.dumps({"items": list(range(60)), "devices": [{"number": n, "name": str(n)} for n in range(60)]})
_PAUSE_S = 0.01
_BIN_S = 0.25
_READY_S = 10.0


class Pace(NamedTuple):
    """How fast the cores were for a while."""

    mean_us: float
    """Processor time of the piece of work: twice as much is half as fast."""
    spread: float
    """Of its means over quarters of a second, the largest divided by the least."""


class CoreSpeed:
    """Watches some cores from a process of its own, which takes about 2 % of them, as long as the block lasts."""

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

    def since(self, started_s: float) -> Pace:
        """Sum up.

        Args:
            started_s: From when, by ``time.monotonic``.

        Raises:
            RuntimeError: If no time has been taken since then.
        """
        return pace_of(list(self._seen), since_s=started_s)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                at_s, elapsed_us = line.split()
                self._seen.append((float(at_s), float(elapsed_us)))
                self._has_seen.set()


def pace_of(seen: Sequence[tuple[float, float]], *, since_s: float) -> Pace:
    """Sum up times of the piece of work.

    Args:
        seen: When each was taken, in seconds, and the microseconds of it.
        since_s: What was taken before says nothing.

    Raises:
        RuntimeError: If there is none.
    """
    bins: defaultdict[int, list[float]] = defaultdict(list)
    for at_s, elapsed_us in seen:
        if at_s >= since_s:
            bins[math.floor((at_s - since_s) / _BIN_S)].append(elapsed_us)
    if not bins:
        raise RuntimeError("Expected times of the piece of work, got none. Measure for longer.")
    last = max(bins)
    if len(bins) > 1:  # it is not over
        del bins[last]
    means_us = [statistics.fmean(times) for times in bins.values()]
    return Pace(statistics.fmean(means_us), max(means_us) / min(means_us))


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
