"""How many requests may be inside at once, learnt from whether their answers were in time.

    a window of answers, more than 5 % of them late     limit <- 0.8 limit
    a window in which the limit was felt                limit <- limit + max(1, 5 % of it)

The batcher refuses what it predicts to be late. This is for what no prediction knows: a neighbour that takes the cores,
a garbage collector, a link that fails between two stages. It acts after the fact, and lets go by itself.
"""

from typing import Literal, TypeAlias

Priority: TypeAlias = Literal["high", "normal", "low"]

SHARES: dict[Priority, float] = {"high": 1.0, "normal": 0.9, "low": 0.7}
"""Of the limit that each priority may fill: who matters more finds room when others are refused."""

_LATE_ALLOWED = 0.05
_DECREASE = 0.8
_INCREASE = 0.05
_WINDOW = 20
_FELT = 0.5


class ConcurrencyLimit:
    """The limit, and the requests inside. Belongs to one event loop."""

    def __init__(self, *, least: int, most: int) -> None:
        """Start at the most, with nobody inside.

        Args:
            least: How far it may fall: what keeps the stages busy.
            most: How far it may rise: what the queue and the stages can hold.

        Raises:
            ValueError: If they are not 1 <= least <= most.
        """
        if not 1 <= least <= most:
            raise ValueError(f"Expected 1 <= least <= most, got {least} and {most}.")
        self._least, self._most, self._limit = least, most, float(most)
        self._inside = self._answers = self._late = 0
        self._is_felt = False

    @property
    def limit(self) -> int:
        """Requests of the highest priority that may be inside at once."""
        return int(self._limit)

    def resize(self, most: int) -> None:
        """Let it rise to another height; where it has fallen, it stays.

        Raises:
            ValueError: If that is below the least.
        """
        if most < self._least:
            raise ValueError(f"Expected at least {self._least}, got {most}.")
        has_fallen = self._limit < self._most
        self._limit = min(self._limit, float(most)) if has_fallen else float(most)
        self._most = most

    @property
    def inside(self) -> int:
        """Requests that have entered and not left."""
        return self._inside

    def enter(self, priority: Priority) -> bool:
        """Let a request in if there is room for one of its priority; then it must ``leave`` once."""
        # one at a time is always let in: without answers nothing would be learnt
        if self._inside and self._inside >= SHARES[priority] * self.limit:
            self._is_felt = True
            return False
        self._inside += 1
        self._is_felt = self._is_felt or self._inside >= _FELT * self._limit
        return True

    def leave(self, *, is_late: bool | None) -> None:
        """Let a request out.

        Args:
            is_late: Whether its answer came too late; None if that says nothing of the server, as with a caller that
                hung up.
        """
        self._inside -= 1
        if is_late is None:
            return
        self._answers += 1
        self._late += is_late
        if self._answers >= max(_WINDOW, self.limit):
            self._end_window()

    def _end_window(self) -> None:
        if self._late > _LATE_ALLOWED * self._answers:
            self._limit = max(float(self._least), _DECREASE * self._limit)
        elif self._is_felt:
            self._limit = min(float(self._most), self._limit + max(1.0, _INCREASE * self._limit))
        self._answers = self._late = 0
        self._is_felt = False
