"""The queue of one replica, simulated: batches form when the worker is free, from all who wait.

    time of a batch of n    batch_ms + n * request_ms + what disturbs it
    time of a request       its wait for the worker + time of its batch + fixed_ms
    capacity                max_batch / (batch_ms + max_batch * request_ms)

What disturbs a batch (the system, garbage collection, another process) is drawn from what disturbed single requests: a
batch that takes as long as m of them meets it m times.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

UTILISATIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97)
"""Shares of the capacity at which ``WaitCurve`` simulates; what lies between them is interpolated."""

_WARM_UP_SHARE = 0.1


@dataclass(frozen=True)
class ServiceTimes:
    """What a replica takes, in ms.

    Attributes:
        batch_ms: For a batch, however small.
        request_ms: For each request in it.
        fixed_ms: For a request, without keeping the worker: sockets, and the client that measures.
        disturbances_ms: What single requests took beyond their mean, at even shares of them; its mean is 0.
        max_batch: Most requests of a batch.

    Raises:
        ValueError: If a time is negative, a batch takes none, or a batch holds nobody.
    """

    batch_ms: float
    request_ms: float
    fixed_ms: float = 0.0
    disturbances_ms: tuple[float, ...] = (0.0,)
    max_batch: int = 64

    def __post_init__(self) -> None:
        if min(self.batch_ms, self.request_ms, self.fixed_ms) < 0 or not self.one_ms > 0 or self.max_batch < 1:
            raise ValueError(f"Expected times of at least 0, some work and batches of at least 1, got {self}.")

    @property
    def one_ms(self) -> float:
        """What a batch of one takes."""
        return self.batch_ms + self.request_ms

    @property
    def capacity_rps(self) -> float:
        """Most requests a second."""
        return 1000 * self.max_batch / (self.batch_ms + self.max_batch * self.request_ms)

    def faster(self, factor: float) -> "ServiceTimes":
        """Divide every time by a factor."""
        return ServiceTimes(
            self.batch_ms / factor,
            self.request_ms / factor,
            self.fixed_ms / factor,
            tuple(each / factor for each in self.disturbances_ms),
            self.max_batch,
        )


def simulate(times: ServiceTimes, rate_rps: float, *, requests: int = 25_000, seed: int = 0) -> Times:
    """Let requests arrive at one replica by a Poisson process.

    Args:
        times: What the replica takes.
        rate_rps: Arrivals a second; beyond the capacity the result is as long as the run.
        requests: How many arrive.
        seed: Of arrivals and disturbances. Two rates with one seed get the same draws, at another pace.

    Returns:
        Times in ms from arrival to answer, ``[requests]`` in order of arrival, without the first tenth, which met an
        empty queue.
    """
    random = np.random.default_rng(seed)
    arrived = np.cumsum(random.exponential(1000 / rate_rps, requests))
    disturbed = np.concatenate(([0.0], np.cumsum(random.choice(np.array(times.disturbances_ms), requests)))).tolist()
    arrivals: list[float] = arrived.tolist()
    ends: list[float] = []
    sizes: list[int] = []
    first, drawn, free_ms = 0, 0, 0.0
    while first < requests:
        start_ms = max(free_ms, arrivals[first])
        last = bisect_right(arrivals, start_ms, first, min(first + times.max_batch, requests))
        took_ms = times.batch_ms + times.request_ms * (last - first)
        # as long as so many batches of one, which are never more than there are requests in it
        until = drawn + max(1, round(took_ms / times.one_ms))
        took_ms += disturbed[until] - disturbed[drawn]
        drawn = until
        free_ms = start_ms + max(took_ms, 0.0)
        ends.append(free_ms)
        sizes.append(last - first)
        first = last
    answered: Times = np.repeat(np.array(ends), sizes) + times.fixed_ms - arrived
    return answered[int(requests * _WARM_UP_SHARE) :]


@dataclass(frozen=True)
class WaitCurve:
    """How long requests take at every utilisation: simulated at some, interpolated between.

    Attributes:
        times: What the replica takes.
        quantiles_ms: ``[utilisations, shares]``, never falling in either direction.
    """

    times: ServiceTimes
    quantiles_ms: Times
    _shares: Times

    @classmethod
    def of(cls, times: ServiceTimes, *, requests: int = 25_000, seeds: Sequence[int] = (0, 1, 2)) -> "WaitCurve":
        """Simulate a replica; with the same seeds the result is the same.

        Args:
            times: What it takes.
            requests: Of each simulation.
            seeds: One simulation each, taken together.
        """
        return _curve(times, requests, tuple(seeds))

    def quantile_ms(self, utilisation: float, share: float) -> float:
        """Return the time that ``share`` of the requests do not exceed; infinite beyond what was simulated."""
        if utilisation > UTILISATIONS[-1]:
            return float("inf")
        by_utilisation = [np.interp(share, self._shares, row) for row in self.quantiles_ms]
        return float(np.interp(utilisation, UTILISATIONS, by_utilisation))

    def share_within(self, utilisation: float, limit_ms: float) -> float:
        """Return the share of the requests that take at most ``limit_ms``."""
        row = [np.interp(utilisation, UTILISATIONS, column) for column in self.quantiles_ms.T]
        return float(np.interp(limit_ms, row, self._shares, left=0.0, right=1.0))

    def utilisation_within(self, limit_ms: float, share: float) -> float:
        """Return the largest utilisation at which ``share`` of the requests take at most ``limit_ms``; 0 if none is."""
        by_utilisation = [float(np.interp(share, self._shares, row)) for row in self.quantiles_ms]
        if by_utilisation[0] > limit_ms:
            return 0.0
        above = next((number for number, each in enumerate(by_utilisation) if each > limit_ms), None)
        if above is None:
            return UTILISATIONS[-1]
        low_ms, high_ms = by_utilisation[above - 1 : above + 1]
        low, high = UTILISATIONS[above - 1 : above + 1]
        return low + (high - low) * (limit_ms - low_ms) / (high_ms - low_ms)


@lru_cache(maxsize=8)
def _curve(times: ServiceTimes, requests: int, seeds: tuple[int, ...]) -> WaitCurve:
    # closer together where quantiles are asked for
    shares = np.concatenate((np.linspace(0, 0.9, 91), 1 - np.geomspace(0.1, 0.001, 60)[1:]))
    rows = []
    for utilisation in UTILISATIONS:
        rate_rps = utilisation * times.capacity_rps
        found = np.concatenate([simulate(times, rate_rps, requests=requests, seed=seed) for seed in seeds])
        rows.append(np.quantile(found, shares))
    # more load is never better; where a simulation says so, it is chance
    return WaitCurve(times, np.maximum.accumulate(np.array(rows), axis=0), shares)
