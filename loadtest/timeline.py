"""What happened in every second of a run: counts, histograms with buckets of 0.1 ms, gauges.

Every process of a run fills its own; they add up, so the order in which workers report does not matter.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

BUCKETS_A_MS = 10
"""A bucket is 0.1 ms wide, at 1 ms as at 10 s."""

LATENCY, SERVICE, LAG = "latency", "service", "lag"
"""Histograms: from when a request was due, and from when it was sent, to its last byte; from due to sent."""

CPU, IN_FLIGHT, USERS = "cpu", "in_flight", "users"
"""Gauges: share of a core that the busiest generator process took, requests under way, users."""


UNANSWERED = "no answer until the end of the run"
"""The fault of what had no outcome yet."""


def bucket_ms(milliseconds: float) -> float:
    """Round a time to its bucket."""
    return round(milliseconds * BUCKETS_A_MS) / BUCKETS_A_MS


def quantile_ms(buckets: Mapping[int, int], share: float) -> float:
    """Return the smallest time that ``share`` of those counted do not exceed; NaN of none."""
    rank = max(1, math.ceil(share * sum(buckets.values())))
    for bucket in sorted(buckets):
        rank -= buckets[bucket]
        if rank <= 0:
            return bucket / BUCKETS_A_MS
    return math.nan


@dataclass
class Second:
    """One second, or several added up.

    Attributes:
        counts: By name; alternatives are spelt ``group/name``, such as ``outcome/late``.
        histograms: Counts by bucket, by name.
        gauges: The largest value seen, by name.
    """

    counts: Counter[str] = field(default_factory=Counter)
    histograms: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    gauges: dict[str, float] = field(default_factory=dict)

    def observe(self, name: str, milliseconds: float) -> None:
        """Count a time."""
        self.histograms[name][round(milliseconds * BUCKETS_A_MS)] += 1

    def gauge(self, name: str, value: float) -> None:
        """Note a value; the largest of the second stays."""
        self.gauges[name] = max(value, self.gauges.get(name, value))

    def of(self, group: str) -> dict[str, int]:
        """Return the counts of a group by name."""
        prefix = f"{group}/"
        return {name.removeprefix(prefix): count for name, count in self.counts.items() if name.startswith(prefix)}

    def gauges_of(self, group: str) -> dict[str, float]:
        """Return the gauges of a group by name."""
        prefix = f"{group}/"
        return {name.removeprefix(prefix): value for name, value in self.gauges.items() if name.startswith(prefix)}

    def add(self, other: "Second") -> None:
        """Add what another process, or another second, has."""
        self.counts.update(other.counts)
        for name, buckets in other.histograms.items():
            self.histograms[name].update(buckets)
        for name, value in other.gauges.items():
            self.gauge(name, value)

    def quantile_ms(self, name: str, share: float) -> float:
        """Return a quantile of a histogram; NaN where nothing was counted."""
        return quantile_ms(self.histograms.get(name, {}), share)

    def to_json(self) -> dict[str, Any]:
        """Spell it in what JSON and msgpack have."""
        return {
            "counts": dict(self.counts),
            "histograms": {
                name: {str(bucket): count for bucket, count in sorted(buckets.items())}
                for name, buckets in self.histograms.items()
            },
            "gauges": dict(self.gauges),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` spelt."""
        second = cls(Counter(data["counts"]), gauges=dict(data["gauges"]))
        for name, buckets in data["histograms"].items():
            second.histograms[name].update({int(bucket): count for bucket, count in buckets.items()})
        return second


class Timeline:
    """Seconds by number, from the start of the run."""

    def __init__(self) -> None:
        self.seconds: defaultdict[int, Second] = defaultdict(Second)

    def at(self, now_s: float) -> Second:
        """Return the second that a time belongs to."""
        return self.seconds[int(now_s)]

    def over(self, numbers: Iterable[int]) -> Second:
        """Add seconds up."""
        total = Second()
        for number in numbers:
            if number in self.seconds:
                total.add(self.seconds[number])
        return total

    @property
    def total(self) -> Second:
        """All seconds together."""
        return self.over(list(self.seconds))

    @property
    def end_s(self) -> int:
        """The first second after the last one in which anything was due."""
        return max((number + 1 for number, second in self.seconds.items() if second.counts["due"]), default=0)

    def settle(self) -> None:
        """Count what is due and has no outcome as failed: the run is over, and nobody waits any more."""
        for second in self.seconds.values():
            lost = second.counts["due"] - second.counts["dropped"] - sum(second.of("outcome").values())
            if lost > 0:
                second.counts.update({"outcome/failed": lost, "rung/failed": lost, f"fault/{UNANSWERED}": lost})

    def merge(self, data: Mapping[str, Any]) -> None:
        """Add the seconds that ``take`` spelt elsewhere."""
        for number, second in data.items():
            self.seconds[int(number)].add(Second.from_json(second))

    def take(self) -> dict[str, Any]:
        """Spell all seconds and forget them: what a worker sends is sent once."""
        taken = self.to_json()
        self.seconds.clear()
        return taken

    def to_json(self) -> dict[str, Any]:
        """Spell all seconds."""
        return {str(number): self.seconds[number].to_json() for number in sorted(self.seconds)}
