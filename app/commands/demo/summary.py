"""The numbers of a demo: quality with shared, stale and fresh parameters, bytes, latency for each kind of network."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.commands.demo.devices import TOP, Visit
from duet.device.update import Update
from duet.evaluation.intervals import mean_interval

Interval = tuple[float, float, float]
"""Mean, and the ends of its 95 % bootstrap interval over devices."""
STAGES = ("queue", "encode", "generate", "compose")


@dataclass(frozen=True)
class Quality:
    """Ranking quality of the devices.

    Attributes:
        ndcg: NDCG@10 with each kind of parameters.
        hits: Hit rate at 10 with each kind of parameters.
        fresh_minus_shared: Paired difference of NDCG@10.
        fresh_minus_stale: Paired difference of NDCG@10.
        devices: How many devices asked.
        visits: How many rankings they made with each kind of parameters.
        entered: In how many of them fresh parameters brought the next item into the top 10 of the shared ones.
        left: In how many they took it out.
    """

    ndcg: Mapping[str, Interval]
    hits: Mapping[str, float]
    fresh_minus_shared: Interval
    fresh_minus_stale: Interval
    devices: int
    visits: int
    entered: int
    left: int


@dataclass(frozen=True)
class Delivery:
    """Updates over one kind of network.

    Attributes:
        link: Name of the profile.
        plans: How often each plan was answered, commonest first.
        bytes_down: Median size of an answer on the wire.
        server_ms: p50 and p95 of what the server measured.
        stages_ms: Median of each stage, and of the rest of the server's time.
        network_ms: Median of the modelled network.
        delivered_ms: p50 and p95 of server and network together.
        within_budget: Share of the answers delivered within the budget.
        refused: How many were refused or failed; they count as not within the budget.
        reason: Why the first of them was.
        refusal: The same, when all of them were; None otherwise.
    """

    link: str
    plans: tuple[tuple[str, int], ...]
    bytes_down: float
    server_ms: tuple[float, float]
    stages_ms: Mapping[str, float]
    network_ms: float
    delivered_ms: tuple[float, float]
    within_budget: float
    refused: int
    reason: str
    refusal: str | None


def quality_of(visits: Sequence[Visit]) -> Quality:
    """Average over the moments of each device first, so that devices count alike."""
    kinds = ("shared", "stale", "fresh")
    ndcg = {kind: _per_device(visits, [_ndcg(getattr(visit, kind)) for visit in visits]) for kind in kinds}
    hits = {kind: float(np.mean([getattr(visit, kind) <= TOP for visit in visits])) for kind in kinds}
    return Quality(
        ndcg={kind: mean_interval(values) for kind, values in ndcg.items()},
        hits=hits,
        fresh_minus_shared=mean_interval(ndcg["fresh"] - ndcg["shared"]),
        fresh_minus_stale=mean_interval(ndcg["fresh"] - ndcg["stale"]),
        devices=len(ndcg["shared"]),
        visits=len(visits),
        entered=sum(map(_entered, visits)),
        left=sum(visit.shared <= TOP < visit.fresh for visit in visits),
    )


def delivery_of(link: str, updates: Sequence[Update], *, budget_ms: float) -> Delivery:
    """Summarise updates that were asked for over one kind of network."""
    arrived = [update for update in updates if update.status != "failed"]
    errors = [str(update.error) for update in updates if update.error is not None]
    server = np.array([update.server_ms or 0.0 for update in arrived])
    network = np.array([update.network_ms or 0.0 for update in arrived])
    delivered = server + network
    stages = {
        stage: float(np.median([update.server.get(stage, 0.0) for update in arrived])) if arrived else 0.0
        for stage in STAGES
    }
    return Delivery(
        link=link,
        plans=tuple(Counter(update.plan or "?" for update in arrived).most_common()),
        bytes_down=_percentile(np.array([float(update.bytes_down) for update in arrived]), 50),
        server_ms=(_percentile(server, 50), _percentile(server, 95)),
        stages_ms=stages,
        network_ms=_percentile(network, 50),
        delivered_ms=(_percentile(delivered, 50), _percentile(delivered, 95)),
        within_budget=float(np.mean(np.append(delivered <= budget_ms, [False] * len(errors)))) if updates else 0.0,
        refused=len(errors),
        reason=errors[0] if errors else "",
        refusal=errors[0] if errors and not arrived else None,
    )


def typical_gain(visits: Sequence[Visit]) -> Visit:
    """Choose the visit to show: of those whose next item fresh parameters brought into the top 10, the median one.

    Without such a visit, the one whose rank improved most.
    """
    gained = [visit for visit in visits if _entered(visit)]
    if not gained:
        return max(visits, key=lambda visit: visit.shared - visit.fresh)
    return sorted(gained, key=lambda visit: visit.shared - visit.fresh)[len(gained) // 2]


def _entered(visit: Visit) -> bool:
    return visit.fresh <= TOP < visit.shared


def _ndcg(rank: float) -> float:
    return 1 / float(np.log2(1 + rank)) if rank <= TOP else 0.0


def _per_device(visits: Sequence[Visit], values: Sequence[float]) -> NDArray[np.float64]:
    by_device: dict[int, list[float]] = {}
    for visit, value in zip(visits, values, strict=True):
        by_device.setdefault(visit.device, []).append(value)
    return np.array([np.mean(own) for own in by_device.values()])


def _percentile(values: NDArray[np.float64], percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else 0.0
