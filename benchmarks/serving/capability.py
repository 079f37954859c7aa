"""What a server is capable of while the speed of its cores changes, and what load a stream was at any moment."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.serving.closed_loop import ClosedLoop, load, write_bodies
from benchmarks.serving.core_speed import CoreSpeed

CONNECTIONS = (64, 32, 16)

_AMPLE_MS = 10_000
_LOOPS, _MOST_LOOPS = 3, 10


class Capability:
    """How many answers a second a server is capable of, by the pace of its cores: what all closed loops so far say.

    Attributes:
        connections: Of those loops: the most, 64, 32 or 16, of which 95 % of the answers are within the budget.
        pace_us: Of the cores during the last one.
    """

    def __init__(
        self, url: str, models: Path, model: str, *, speed: CoreSpeed, budget_ms: float, seconds: float, cores: str
    ) -> None:
        """Warm the server up, find the number of connections, and measure.

        Args:
            url: Of the server.
            models: Folder of published models.
            model: Which is asked for.
            speed: Watches the server's cores.
            budget_ms: Within which answers have to be.
            seconds: Of each closed loop.
            cores: Of the load generator.

        Raises:
            RuntimeError: If a closed loop is refused again and again.
        """
        self._url, self._model, self._speed = url, model, speed
        self._seconds, self._cores = seconds, cores
        self._folder = tempfile.TemporaryDirectory()
        self._bodies = Path(self._folder.name) / "bodies.txt"
        write_bodies(self._bodies, models, model, budget_ms=_AMPLE_MS)
        self.connections, self.pace_us = CONNECTIONS[0], math.nan
        self._loop()
        for self.connections in CONNECTIONS:
            if self._loop().p95_ms <= budget_ms:
                break
        self._works: list[float] = []
        for _ in range(_LOOPS):
            self.measure()

    def measure(self) -> None:
        """Run one more closed loop, once what a stream has left behind it is over."""
        started_s = time.monotonic()
        requests_s = self._loop().requests_s
        self.pace_us = self._speed.since(started_s)
        self._works.append(requests_s * self.pace_us)

    def at(self, pace_us: float) -> float:
        """Return the answers a second at a pace of the cores."""
        return statistics.median(self._works) / pace_us

    def _loop(self) -> ClosedLoop:
        for _ in range(_MOST_LOOPS):
            loop = load(
                self._url,
                self._model,
                self._bodies,
                connections=self.connections,
                seconds=self._seconds,
                cores=self._cores,
            )
            if not loop.failed:
                return loop
        raise RuntimeError(f"Expected a closed loop of {self.connections} connections to be answered, got refusals.")


def loads_during(rate: float, course: Sequence[float], at: Callable[[float], float], among: Sequence[int]) -> list[int]:
    """Tell what load a stream was, in percent of capacity, quarter by quarter of a second.

    Args:
        rate: Requests a second.
        course: The pace of the cores in each. A quarter is under the load of the one before, if that was more: what
            that left behind is answered in it.
        at: Capacity at a pace.
        among: Loads; the nearest is told.
    """

    def nearest(share: float) -> int:
        return min(among, key=lambda percent: abs(percent - share))

    worst = (max(pair) for pair in zip(course, [course[0], *course], strict=False))
    return [nearest(100 * rate / at(pace_us)) for pace_us in worst]
