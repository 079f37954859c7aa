"""The capacity planner: from what one replica did to replicas, cores, accelerators, egress and cost for many devices.

    peak        devices * updates_per_day / 86,400 s * peak_factor * requests_per_update
    share       budget - the network's time of the slowest covered device
    utilisation the largest at which in_time_share of the requests take at most the share (simulated), at most
                most_utilisation, and never beyond a measured knee
    replicas    ceil(peak / (utilisation * capacity)) + spare_replicas

Every replica is planned as a queue of its own, which holds where connections stay with one. Needs no server.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, ValidationError

from duet.protocol.budget import PROFILES, RESPONSE_HEADER_BYTES
from loadtest.calibration import Calibration, CannotPlan, CapacityProfile
from loadtest.profiles import NetworkMix
from loadtest.queueing import UTILISATIONS, WaitCurve

ASSUMPTIONS_FILE = Path(__file__).with_name("assumptions.yaml")

_DAY_S, _HOUR_S = 86_400, 3_600
_ROUNDING = 1e-9

Share = Annotated[float, Field(gt=0, le=1)]


class Assumptions(BaseModel):
    """What a plan takes for granted; ``assumptions.yaml`` says what each one means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_update: Annotated[float, Field(ge=1)]
    keep_share: Annotated[float, Field(ge=0, le=1)]
    covered_share: Share
    in_time_share: Annotated[float, Field(gt=0, le=0.999)]
    most_utilisation: Annotated[float, Field(gt=0, le=UTILISATIONS[-1])]
    spare_replicas: NonNegativeInt
    core_speed: PositiveFloat
    cores_per_replica: PositiveFloat | None
    accelerators_per_replica: NonNegativeFloat | None
    request_bytes: NonNegativeInt | None
    package_bytes: NonNegativeInt | None
    days_per_month: PositiveFloat
    currency: str
    price_core_hour: NonNegativeFloat
    price_accelerator_hour: NonNegativeFloat
    price_egress_gb: NonNegativeFloat

    @classmethod
    def read(cls, path: Path | None = None, changes: Mapping[str, str] | None = None) -> Self:
        """Read the defaults, what a file says instead, and what is said beside it.

        Args:
            path: YAML with some or all of them; none is needed.
            changes: Values as they are typed, by name.

        Raises:
            CannotPlan: If one is unknown or impossible.
            OSError: If the file cannot be read.
        """
        known: dict[str, Any] = yaml.safe_load(ASSUMPTIONS_FILE.read_text(encoding="utf-8"))
        try:
            own = {} if path is None else yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            if not isinstance(own, dict):
                raise CannotPlan(f"Expected {path} to hold NAME: VALUE, got {type(own).__name__}.")
            typed = {name: yaml.safe_load(text) for name, text in (changes or {}).items()}
            return cls.model_validate(known | own | typed)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CannotPlan(f"Expected assumptions in YAML, got: {error}") from error
        except ValidationError as error:
            told = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors(include_url=False))
            raise CannotPlan(f"Expected assumptions of {', '.join(known)}, got: {told}.") from error


@dataclass(frozen=True)
class Demand:
    """What is to be carried.

    Attributes:
        devices: How many there are.
        updates_per_day: Of each.
        peak_factor: The busiest minutes against the mean of the day.
        budget_ms: From sending to the last byte received, of every update.
        mix: Networks of the devices.
    """

    devices: float
    updates_per_day: float
    peak_factor: float
    budget_ms: float
    mix: NetworkMix

    def __post_init__(self) -> None:
        for name in ("devices", "updates_per_day", "budget_ms"):
            if not 0 < getattr(self, name) < math.inf:
                raise CannotPlan(f"Expected {name} above 0, got {getattr(self, name):g}.")
        if not 1 <= self.peak_factor < math.inf:
            raise CannotPlan(f"Expected a peak_factor of at least 1, the mean of the day, got {self.peak_factor:g}.")

    @property
    def mean_updates_s(self) -> float:
        """Updates a second, over the day."""
        return self.devices * self.updates_per_day / _DAY_S


@dataclass(frozen=True)
class Network:
    """The devices of one network: their share, what it takes, what it leaves the server, and how many are in time."""

    name: str
    share: float
    network_ms: float
    left_ms: float
    is_covered: bool
    in_time_share: float = 0.0


@dataclass(frozen=True)
class Load:
    """A utilisation and what requests take there, in ms, without the network."""

    utilisation: float
    requests_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @classmethod
    def at(cls, curve: WaitCurve, utilisation: float) -> Self:
        """Read a curve."""
        quantiles = (curve.quantile_ms(utilisation, share) for share in (0.5, 0.95, 0.99))
        return cls(utilisation, utilisation * curve.times.capacity_rps, *quantiles)


@dataclass(frozen=True)
class Plan:
    """What is needed.

    Attributes:
        mean_rps: Requests a second over the day.
        peak_rps: At the peak.
        server_share_ms: What the budget leaves to the server.
        limited_by: Which of the limits the utilisation comes from.
        planned: One replica at the peak, with all but the spare ones.
        curve: One replica at other loads.
        networks: By network, the fastest first.
        replicas: Spare ones included.
        cores: Of all replicas.
        accelerators: Of all replicas.
        egress_bytes_s: To devices at the peak, headers included.
        egress_bytes_month: In a month.
        cost_month: Of replicas for the peak around the clock, and of egress.
        cost_per_million: Updates, likewise.
        cost_per_million_following: The same if replicas followed the load at once: what autoscaling can save at most.
    """

    mean_rps: float
    peak_rps: float
    server_share_ms: float
    limited_by: str
    planned: Load
    curve: tuple[Load, ...]
    networks: tuple[Network, ...]
    replicas: int
    cores: float
    accelerators: float
    egress_bytes_s: float
    egress_bytes_month: float
    cost_month: float
    cost_per_million: float
    cost_per_million_following: float


@dataclass(frozen=True)
class Replica:
    """One replica, as it was measured: its times and what it occupies."""

    calibration: Calibration
    cores: float
    accelerators: float
    request_bytes: float
    package_bytes: float

    @classmethod
    def of(cls, calibration: Calibration, profile: CapacityProfile, assumptions: Assumptions) -> Self:
        """Take from a profile what the assumptions leave open."""

        def chosen(name: str) -> float:
            own = getattr(assumptions, name)
            return float(getattr(profile, name) if own is None else own)

        return cls(
            calibration,
            chosen("cores_per_replica"),
            chosen("accelerators_per_replica"),
            chosen("request_bytes"),
            chosen("package_bytes"),
        )


def plan(demand: Demand, replica: Replica, assumptions: Assumptions) -> Plan:
    """Work out what carries a demand.

    Raises:
        CannotPlan: If the network alone takes the budget, or the server cannot hold its share at any load.
    """
    networks = _networks(demand, replica, assumptions)
    server_share_ms = min(each.left_ms for each in networks if each.is_covered)
    if server_share_ms <= 0:
        raise CannotPlan(_too_small(demand, networks))
    curve = WaitCurve.of(replica.calibration.times.faster(assumptions.core_speed))
    utilisation, limited_by = _utilisation(curve, server_share_ms, replica.calibration, assumptions)
    peak_rps = demand.mean_updates_s * demand.peak_factor * assumptions.requests_per_update
    needed = math.ceil(peak_rps / (utilisation * curve.times.capacity_rps))
    at_peak = peak_rps / (needed * curve.times.capacity_rps)
    reply_bytes = replica.package_bytes * (1 - assumptions.keep_share) + RESPONSE_HEADER_BYTES
    replicas = needed + assumptions.spare_replicas
    month_s = assumptions.days_per_month * _DAY_S
    egress_month = demand.mean_updates_s * assumptions.requests_per_update * reply_bytes * month_s
    updates_month = demand.mean_updates_s * month_s
    replica_hour = (
        replica.cores * assumptions.price_core_hour + replica.accelerators * assumptions.price_accelerator_hour
    )
    egress_cost = egress_month / 1e9 * assumptions.price_egress_gb
    cost_month = replicas * replica_hour * month_s / _HOUR_S + egress_cost
    following = (needed / demand.peak_factor + assumptions.spare_replicas) * replica_hour * month_s / _HOUR_S
    return Plan(
        mean_rps=peak_rps / demand.peak_factor,
        peak_rps=peak_rps,
        server_share_ms=server_share_ms,
        limited_by=limited_by,
        planned=Load.at(curve, at_peak),
        curve=tuple(Load.at(curve, each) for each in (0.3, 0.5, 0.7, 0.85, 0.95)),
        networks=tuple(replace(each, in_time_share=curve.share_within(at_peak, each.left_ms)) for each in networks),
        replicas=replicas,
        cores=replicas * replica.cores,
        accelerators=replicas * replica.accelerators,
        egress_bytes_s=peak_rps * reply_bytes,
        egress_bytes_month=egress_month,
        cost_month=cost_month,
        cost_per_million=1e6 * cost_month / updates_month,
        cost_per_million_following=1e6 * (following + egress_cost) / updates_month,
    )


def _networks(demand: Demand, replica: Replica, assumptions: Assumptions) -> list[Network]:
    """Say what each network takes and leaves, the fastest first."""
    total = sum(demand.mix.shares.values())
    taken = {
        name: PROFILES[name].exchange_ms(request_bytes=replica.request_bytes, response_bytes=replica.package_bytes)
        for name, share in demand.mix.shares.items()
        if share > 0
    }
    found: list[Network] = []
    for name, network_ms in sorted(taken.items(), key=lambda item: item[1]):
        is_covered = sum(each.share for each in found) < assumptions.covered_share - _ROUNDING
        share = demand.mix.shares[name] / total
        found.append(Network(name, share, network_ms, demand.budget_ms - network_ms, is_covered))
    return found


def _utilisation(
    curve: WaitCurve, server_share_ms: float, calibration: Calibration, assumptions: Assumptions
) -> tuple[float, str]:
    in_time = curve.utilisation_within(server_share_ms, assumptions.in_time_share)
    if in_time <= 0:
        idle_ms = curve.quantile_ms(UTILISATIONS[0], assumptions.in_time_share)
        raise CannotPlan(
            f"Expected {assumptions.in_time_share:.1%} of the requests done within {server_share_ms:.1f} ms, which is "
            f"what the budget leaves the server, but even nearly idle it takes {idle_ms:.1f} ms. Raise --budget-ms by "
            f"{math.ceil(idle_ms - server_share_ms)} ms, or cover fewer networks with --set covered_share=SHARE."
        )
    limits = {"the server's share of the budget": in_time, "most_utilisation": assumptions.most_utilisation}
    if calibration.knee_rps is not None:
        limits["the measured knee"] = calibration.knee_rps / calibration.times.capacity_rps
    limited_by = min(limits, key=lambda name: limits[name])
    return limits[limited_by], limited_by


def _too_small(demand: Demand, networks: list[Network]) -> str:
    slowest = max((each for each in networks if each.is_covered), key=lambda each: each.network_ms)
    within = sum(each.share for each in networks if each.left_ms > 0)
    told = (
        f"Expected a budget above {slowest.network_ms:.0f} ms, which {slowest.name} takes by itself, got "
        f"{demand.budget_ms:g} ms. Give a larger --budget-ms"
    )
    return (
        f"{told}, or plan for the faster networks alone with --set covered_share={within:.2f}."
        if within
        else f"{told}."
    )
