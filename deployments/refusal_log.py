"""Refusals in the log: one line a second with counts, because overload must not become a storm of lines as well."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from functools import partial

INTERVAL_S = 1.0
"""At most one line in this time."""


class RefusalLog:
    """Counts refusals by reason and tells them together. The first one after a silence is told at once."""

    def __init__(self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing to tell.

        Args:
            logger: Where the line goes.
            clock: Seconds.
        """
        self._logger, self._clock = logger, clock
        self._counts: Counter[str] = Counter()
        self._told_s: float | None = None

    def count(self, reason: str) -> None:
        """Note one refusal, and tell what is due."""
        self._counts[reason] += 1
        self.tell()

    def tell(self) -> None:
        """Tell what has gathered, unless the last line is too recent; call it now and then, for the last ones."""
        now_s = self._clock()
        if not self._counts or (self._told_s is not None and now_s - self._told_s < INTERVAL_S):
            return
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(self._counts.items()))
        told = partial(self._logger.warning, "Requests refused: %s", counts, extra={"refused": dict(self._counts)})
        # outside of the request that happens to be the one at which the line is due
        Context().run(told)
        self._counts.clear()
        self._told_s = now_s
