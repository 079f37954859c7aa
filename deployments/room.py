"""How many requests there is room for: as many as are answered in a part of the time that they leave the server.

    room  =  answers a second while there is work  x  0.55 of the time that requests leave the server

Inside, time is what the number of requests makes it (Little's law); the rest of it is for what nobody foresees.
"""

import math
import time
from collections.abc import Callable

from deployments.admission import SHARES, Priority
from deployments.forecast import ArrivalRate

_PART, _BURST = 0.55, 1.5
_WINDOW_S, _ANSWERS = 0.05, 8
_NEW, _NEW_DOWN, _LOADED = 0.5, 0.25, 0.5
_PATIENCE_S, _CALM_S = 0.05, 0.2
_SHARE_NEW = 0.05


class Room:
    """How many requests may be inside at once, and how many are. Belongs to one event loop."""

    def __init__(self, *, least: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty, with room for the most.

        Args:
            least: There is always room for so many.
            most: And never for more.
            clock: Seconds.
        """
        self._least, self._most, self._clock = least, most, clock
        self._rate_s = self._urgency_s = 0.0
        self._limit = float(most)
        self._inside = self._answers = 0
        self._since_s = self._busy_s = 0.0
        self._full_since_s = math.inf
        self._refused_s = -math.inf
        self._offered = ArrivalRate()

    @property
    def limit(self) -> int:
        """Requests of the highest priority that there is room for."""
        return int(self._limit)

    @property
    def inside(self) -> int:
        """Requests that have entered and not left."""
        return self._inside

    @property
    def offered_s(self) -> float:
        """Requests that asked for room a second, lately."""
        return self._offered.at(self._clock())

    def places(self, priority: Priority) -> float:
        """Tell how many more of one priority there would be room for now, were nobody to leave."""
        limit = max(self._limit_of(priority), self._burst_limit(self._clock()))
        return max(0.0, math.ceil(limit) - self._inside)

    def resize(self, most: int) -> None:
        """Never have room for more than so many."""
        self._most = most
        self._find_limit()

    def has_room(self, priority: Priority, *, is_new: bool = True) -> bool:
        """Say whether to let one in; half as many again are let in as long as room has not been wanting for a while.

        Args:
            priority: Of the request.
            is_new: Whether it asks for the first time: each is offered once.
        """
        now_s = self._clock()
        if is_new:
            self._offered.note(now_s)
        if self._inside < self._limit_of(priority):
            self._full_since_s = math.inf
            return True
        self._full_since_s = min(self._full_since_s, now_s)
        if self._inside < self._burst_limit(now_s):
            return True
        self._refused_s = now_s
        return False

    def enter(self) -> None:
        """Count one in; it ``leave``s once."""
        if not self._inside:
            self._since_s = self._clock()
        self._inside += 1

    def leave(self) -> None:
        """Count one out."""
        self._inside -= 1
        if not self._inside:
            self._busy_s += self._clock() - self._since_s

    def learn_share(self, share_ms: float) -> None:
        """Learn what a request leaves the server of its budget: the short ones count most."""
        urgency_s = 1000 / max(share_ms, 1.0)
        self._urgency_s += (_SHARE_NEW if self._urgency_s else 1.0) * (urgency_s - self._urgency_s)

    def learn_answer(self) -> None:
        """Learn that one of those inside has its answer."""
        self._answers += 1
        if self._answers < _ANSWERS:
            return
        now_s = self._clock()
        busy_s = self._busy_s + (now_s - self._since_s if self._inside else 0.0)
        if busy_s < _WINDOW_S:
            return
        rate_s = self._answers / busy_s
        if not self._rate_s:
            self._rate_s = rate_s
        elif rate_s > self._rate_s:
            self._rate_s += _NEW * (rate_s - self._rate_s)
        elif self._inside >= _LOADED * self._limit:  # with few inside, more a second could have been answered
            self._rate_s += _NEW_DOWN * (rate_s - self._rate_s)
        self._answers, self._busy_s, self._since_s = 0, 0.0, now_s
        self._find_limit()

    def _limit_of(self, priority: Priority) -> float:
        return max(1.0, SHARES[priority] * self._limit)

    def _burst_limit(self, now_s: float) -> float:
        is_calm = now_s - self._refused_s > _CALM_S and now_s - self._full_since_s < _PATIENCE_S
        return min(self._most, _BURST * self._limit) if is_calm else 0.0

    def _find_limit(self) -> None:
        if self._rate_s and self._urgency_s:
            self._limit = min(float(self._most), max(float(self._least), _PART * self._rate_s / self._urgency_s))
        else:
            self._limit = float(self._most)
