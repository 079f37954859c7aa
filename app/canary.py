"""Whether a canary does worse than the version beside it: two tallies, and the bound that ends the canary.

A request fails when it is late, refused for want of time, or meets an error that is not its sender's. The canary ends
when the rate of failures among its requests exceeds that of the others by more than a margin, beyond chance:

    d = k1/n1 - k0/n0        ends if d - sqrt((k1/n1 - low1)^2 + (high0 - k0/n0)^2) > margin

``low`` and ``high`` are Wilson's bounds of one rate at ``Z`` standard deviations, and the root is Newcombe's (1998,
method 10): it holds for few requests and for none that failed. k failures of n requests; 1 is the canary, 0 the others.
"""

import math
from dataclasses import dataclass

Z = 3.29
"""One-sided 1 in 2,000 at a single look; there is one after each failure, hence so strict, and the margin on top."""

_MEMORY = 10
"""Both tallies are halved whenever the canary has this many times the least number of requests, twice."""


@dataclass(frozen=True)
class CanaryLimit:
    """When a canary ends by itself.

    Attributes:
        min_requests: Not before it has answered, or failed, so many.
        margin: How much more of its requests may fail than of the others.
    """

    min_requests: int = 200
    margin: float = 0.02


@dataclass
class Tally:
    """Requests, and those of them that failed; fractions after a halving."""

    requests: float = 0.0
    failures: float = 0.0

    def add(self, *, is_failure: bool) -> None:
        """Count one."""
        self.requests += 1
        self.failures += is_failure

    def halve(self) -> None:
        """Let what was long ago weigh less."""
        self.requests /= 2
        self.failures /= 2

    @property
    def rate(self) -> float:
        """Share of failures; 0 before the first request."""
        return self.failures / self.requests if self.requests else 0.0

    def bounds(self) -> tuple[float, float]:
        """Wilson's score interval of the rate; everything is possible before the first request."""
        if not self.requests:
            return 0.0, 1.0
        shrink = Z * Z / self.requests
        centre = self.rate + shrink / 2
        spread = math.sqrt(self.rate * (1 - self.rate) * shrink + shrink * shrink / 4)
        return max(0.0, (centre - spread) / (1 + shrink)), min(1.0, (centre + spread) / (1 + shrink))

    def __str__(self) -> str:
        return f"{self.failures:.0f} of {self.requests:.0f} requests ({self.rate:.1%})"


class CanaryTrial:
    """One canary on trial at one gateway. Keeps four numbers, nothing about a device."""

    def __init__(self, limit: CanaryLimit) -> None:
        """Count from nothing."""
        self._limit = limit
        self.canary, self.others = Tally(), Tally()

    def count(self, *, is_canary: bool, is_failure: bool) -> str | None:
        """Count a request.

        Returns:
            Why the canary has to end, or None while it has not.
        """
        (self.canary if is_canary else self.others).add(is_failure=is_failure)
        if is_canary and is_failure and self._is_worse():
            return f"{self.canary} failed or were late, against {self.others} beside it"
        if self.canary.requests >= 2 * _MEMORY * self._limit.min_requests:
            # both, so that they stay of the same time: a night that was bad for all is held against neither
            self.canary.halve()
            self.others.halve()
        return None

    def _is_worse(self) -> bool:
        if self.canary.requests < self._limit.min_requests:
            return False
        low, _ = self.canary.bounds()
        _, high = self.others.bounds()
        doubt = math.hypot(self.canary.rate - low, high - self.others.rate)
        return self.canary.rate - self.others.rate - doubt > self._limit.margin
