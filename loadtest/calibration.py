"""From closed loops to the times of a replica: one connection, and so many that the worker never waits.

    k / X(k)  =  2 batch_ms + k request_ms        k connections, X answers a second, the worker always busy
    mean(1)   =  batch_ms + request_ms + fixed_ms

Where the worker is busy, some of the connections are in its batch and the others wait for the next one: each request
sees two batches, which together hold all of them. What one connection saw beyond its mean are the disturbances.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, TypeAdapter

from loadtest.queueing import ServiceTimes, Times
from loadtest.shapes import read_yaml
from loadtest.timeline import BUCKETS_A_MS, LATENCY

PROFILES_FILE = Path(__file__).with_name("capacity_profiles.yaml")

_ANSWERED_SHARE = 0.99
_DISTURBANCES = 2000


class CannotPlan(ValueError):  # noqa: N818 - what is missing, and what to do about it
    """What was measured, or what is asked for, allows no plan; the text says what to do."""


class OneConnection(BaseModel):
    """Times of requests that nobody else kept waiting, in ms, from sending to the last byte."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: PositiveFloat
    quantiles: Annotated[dict[Annotated[float, Field(gt=0, lt=1)], PositiveFloat], Field(min_length=2)]

    def disturbances_ms(self) -> tuple[float, ...]:
        """Draw the distribution through its quantiles, so bent between them that it has its mean; less its mean."""
        shares, values = zip(*sorted(self.quantiles.items()), strict=True)
        # below the first known quantile, and above the last one, nothing is known: as good, and as bad, as that
        at = np.concatenate(([0.0], shares, [1.0]))
        levels = np.concatenate(([values[0]], values, [values[-1]]))
        asked = (np.arange(_DISTURBANCES) + 0.5) / _DISTURBANCES
        piece = np.clip(np.searchsorted(at, asked, side="right") - 1, 0, len(at) - 2)
        share = (asked - at[piece]) / (at[piece + 1] - at[piece])
        low, high = 0.0, 8.0  # powers of two: from a straight line to a cliff
        for _ in range(40):
            bend = (low + high) / 2
            found = levels[piece] + (levels[piece + 1] - levels[piece]) * share ** (2**bend)
            low, high = (bend, high) if found.mean() > self.mean else (low, bend)
        return tuple(float(each) for each in found - found.mean())


class CapacityProfile(BaseModel):
    """What was measured of one replica, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str
    record: str
    command: str
    hardware: str
    commit: str
    cores_per_replica: PositiveFloat
    accelerators_per_replica: NonNegativeFloat = 0.0
    request_bytes: PositiveInt
    package_bytes: PositiveInt
    max_batch: PositiveInt = 64
    requests_s: Annotated[dict[PositiveInt, PositiveFloat], Field(min_length=1)]
    """Answers a second by number of connections."""
    one_connection_ms: OneConnection


@dataclass(frozen=True)
class Calibration:
    """A replica as it was measured.

    Attributes:
        times: What it takes.
        source: Where that comes from.
        measured_rps: The most answers a second of any closed loop.
        fit_error: Largest relative error of ``k / X(k)`` over the loops that the times come from.
        knee_rps: Of an open loop with this server, if there was one.
    """

    times: ServiceTimes
    source: str
    measured_rps: float
    fit_error: float
    knee_rps: float | None = None


_PROFILES: TypeAdapter[dict[str, CapacityProfile]] = TypeAdapter(dict[str, CapacityProfile])


def load_profiles(path: Path = PROFILES_FILE) -> Mapping[str, CapacityProfile]:
    """Read measured replicas by name.

    Raises:
        ValueError: If the file holds anything else.
        OSError: If it cannot be read.
    """
    return read_yaml(path, _PROFILES, "measured replicas, as loadtest/capacity_profiles.yaml does")


def calibrated(profile: CapacityProfile) -> Calibration:
    """Find the times of a replica in a profile.

    Raises:
        CannotPlan: If there are too few loops.
    """
    one = profile.one_connection_ms
    times, error = fitted(
        profile.requests_s, one_ms=one.mean, disturbances_ms=one.disturbances_ms(), max_batch=profile.max_batch
    )
    source = f"{profile.record} at {profile.commit}, {profile.hardware}: {profile.about}"
    return Calibration(times, source, max(profile.requests_s.values()), error)


def calibrated_by_report(path: Path, *, max_batch: int = 64) -> Calibration:
    """Find the times of a replica in the ``report.json`` of a saturation run.

    Args:
        path: Of the report; the run had one connection for a while, and at least two larger numbers of them.
        max_batch: Most requests of a batch, a setting of the server.

    Raises:
        CannotPlan: If it is of another run, the load generator was the limit, or too few loops can be used.
        OSError: If it cannot be read.
    """
    report = _read(path)
    try:
        if report["saturation"] is None:
            raise CannotPlan(f"Expected the report of a saturation run in {path}, got one of {report['run']['shape']}.")
        if report["saturation"]["generator_was_limit"]:
            raise CannotPlan(
                f"Expected a run in which the server was the limit in {path}, but the load generator was. "
                "Give it cores of its own, or --processes, and run it again."
            )
        loops = {
            round(phase["load"]): phase
            for phase in report["phases"]
            if phase["role"] == "measured" and (phase["figures"]["due"] or 0) > 0
        }
        # refusals are quick: a loop that had some says nothing about what answers take
        usable = {k: each for k, each in loops.items() if _answered_share(each["figures"]) >= _ANSWERED_SHARE}
        if 1 not in usable:
            raise CannotPlan(f"Expected one connection for a while in {path}, got {sorted(loops)}. {_AGAIN}")
        single_ms = _latencies_ms(report, usable[1])
        requests_s = {k: float(phase["figures"]["offered_rps"]) for k, phase in usable.items()}
    except (KeyError, TypeError) as error:
        raise CannotPlan(f"Expected the report.json of a saturation run in {path}, got {error!r}. {_AGAIN}") from error
    one_ms = float(single_ms.mean())
    disturbances_ms = tuple(float(each) for each in single_ms - one_ms)
    times, fit_error = fitted(requests_s, one_ms=one_ms, disturbances_ms=disturbances_ms, max_batch=max_batch)
    return Calibration(times, f"{path}, of {report['run']['host']}", max(requests_s.values()), fit_error)


_AGAIN = "Make one with `python -m loadtest.saturation --host URL --report DIR --server-share-ms 5000`."


def knee_of_report(path: Path) -> float:
    """Read the knee, in updates a second, from the ``report.json`` of an open loop over several loads.

    Raises:
        CannotPlan: If the run has none.
        OSError: If it cannot be read.
    """
    report = _read(path)
    knee = report.get("figures", {}).get("knee_rps") if isinstance(report, dict) else None
    if not isinstance(knee, int | float):
        raise CannotPlan(
            f"Expected the report.json of an open loop with a knee in {path}, got none. "
            "Make one with `duet loadtest step`."
        )
    return float(knee)


def fitted(
    requests_s: Mapping[int, float], *, one_ms: float, disturbances_ms: Sequence[float], max_batch: int
) -> tuple[ServiceTimes, float]:
    """Solve the two equations above, by least squares of relative errors where there are more than two loops.

    Args:
        requests_s: Answers a second by number of connections; those of one are not used here.
        one_ms: Mean time of a request with one connection.
        disturbances_ms: What such requests took beyond that.
        max_batch: Most requests of a batch.

    Returns:
        The times, and the largest relative error of what they say of the loops.

    Raises:
        CannotPlan: If there are not two loops with more than one connection.
    """
    loops = sorted((k, 1000 * k / rate) for k, rate in requests_s.items() if 1 < k <= 2 * max_batch)
    if len(loops) < 2:
        raise CannotPlan(
            f"Expected closed loops of at least two numbers of connections from 2 to {2 * max_batch}, got "
            f"{[k for k, _ in loops]}. {_AGAIN}"
        )
    connections, cycles_ms = (np.array(column, dtype=float) for column in zip(*loops, strict=True))
    sides = np.stack((2 / cycles_ms, connections / cycles_ms), axis=1)
    batch_ms, request_ms = (float(each) for each in np.linalg.lstsq(sides, np.ones(len(loops)), rcond=None)[0])
    if batch_ms < 0 or request_ms < 0:
        # nothing is shared, or nothing is not: then one of them is all there is
        only_request = float((sides[:, 1] @ np.ones(len(loops))) / (sides[:, 1] @ sides[:, 1]))
        only_batch = float((sides[:, 0] @ np.ones(len(loops))) / (sides[:, 0] @ sides[:, 0]))
        batch_ms, request_ms = (0.0, only_request) if batch_ms < 0 else (only_batch, 0.0)
    times = ServiceTimes(
        batch_ms, request_ms, max(0.0, one_ms - batch_ms - request_ms), tuple(disturbances_ms), max_batch
    )
    errors = np.abs((2 * batch_ms + request_ms * connections) / cycles_ms - 1)
    return times, float(errors.max())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CannotPlan(f"Expected a report.json in {path}, got {error}.") from error


def _answered_share(figures: Mapping[str, Any]) -> float:
    return float(figures["in_time_share"]) + float(figures["late_share"])


def _latencies_ms(report: Mapping[str, Any], phase: Mapping[str, Any]) -> Times:
    """Spread the latencies of a phase evenly over their distribution, ascending."""
    buckets: Counter[int] = Counter()
    start_s, end_s = phase["start_s"], phase["start_s"] + phase["seconds"]
    for number, second in report["seconds"].items():
        if start_s <= int(number) < end_s:
            buckets.update({int(at): count for at, count in second["histograms"].get(LATENCY, {}).items()})
    ordered = sorted(buckets)
    if not ordered:
        raise CannotPlan(f"Expected latencies of the phase {phase['name']!r}, got none. {_AGAIN}")
    counts = np.cumsum([buckets[at] for at in ordered])
    asked = (np.arange(_DISTURBANCES) + 0.5) / _DISTURBANCES * counts[-1]
    spread: Times = np.array(ordered, dtype=float)[np.searchsorted(counts, asked)] / BUCKETS_A_MS
    return spread
