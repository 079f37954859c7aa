"""How many requests a second a key may send: a token bucket a key.

tokens = min(burst, tokens + rate_per_s * elapsed_s); a request takes one, and waits for what is missing of it
"""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from duet.protocol.access_errors import RateLimited


@dataclass(frozen=True)
class Rate:
    """What a bucket holds and how fast it fills.

    Attributes:
        per_s: Requests a second, in the long run.
        burst: Requests at once, after a pause.
    """

    per_s: float
    burst: int

    def __post_init__(self) -> None:
        if not (0 < self.per_s < math.inf and self.burst >= 1):
            raise ValueError(f"Expected a finite rate above 0 and a burst of at least 1, got {self}.")


@dataclass
class _Bucket:
    rate: Rate
    tokens: float
    filled_s: float


class RateLimits:
    """One bucket for each holder that has asked; ``keep`` forgets the others, so that memory is bounded by theirs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets.

        Args:
            clock: Seconds.
        """
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, holder: str, rate: Rate) -> None:
        """Let one request through.

        Args:
            holder: Whose bucket.
            rate: Its rate now; when that changes, what is left in the bucket stays, as far as it fits.

        Raises:
            RateLimited: If the bucket is empty.
        """
        now_s = self._clock()
        bucket = self._buckets.get(holder)
        if bucket is None:
            bucket = self._buckets[holder] = _Bucket(rate, rate.burst, now_s)
        tokens = min(rate.burst, bucket.tokens + rate.per_s * (now_s - bucket.filled_s))
        bucket.rate, bucket.tokens, bucket.filled_s = rate, tokens, now_s
        if tokens < 1:
            raise RateLimited(rate_per_s=rate.per_s, retry_after_s=(1 - tokens) / rate.per_s)
        bucket.tokens = tokens - 1

    def keep(self, holders: Collection[str]) -> None:
        """Forget everybody else's bucket."""
        self._buckets = {holder: bucket for holder, bucket in self._buckets.items() if holder in holders}

    def __len__(self) -> int:
        """Count the buckets."""
        return len(self._buckets)
