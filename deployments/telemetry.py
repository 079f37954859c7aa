"""Where the time of a request went, measured stage by stage."""

import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds in the queue and in each stage; those of the stages are of the whole batch."""

    queue_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0
    compose_ms: float = 0.0

    def queued(self, queue_ms: float) -> Self:
        """Add the time of one request before its batch left."""
        return replace(self, queue_ms=queue_ms)

    def server_timing(self) -> str:
        """Spell the ``Server-Timing`` header."""
        parts = {
            "queue": self.queue_ms,
            "encode": self.encode_ms,
            "generate": self.generate_ms,
            "compose": self.compose_ms,
        }
        return ", ".join(f"{name};dur={duration:.2f}" for name, duration in parts.items())


class Stopwatch:
    """Measures a block: ``with Stopwatch() as watch: ...``, then ``watch.elapsed_ms``."""

    elapsed_ms = 0.0

    def __enter__(self) -> Self:
        self._started_s = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.elapsed_ms = (time.perf_counter() - self._started_s) * 1000
