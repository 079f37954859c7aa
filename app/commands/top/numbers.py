"""What ``duet top`` shows: rates, quantiles and mixes of a window of time, from the differences of two scrapes."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.commands.top.scrape import Series, Snapshot

STAGES = ("plan", "queue", "encode", "generate", "compose", "hops")
ANSWERED = ("plan", "keep", "shared")
_QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}

Quantiles = Mapping[str, float | None]
"""By ``p50``, ``p95``, ``p99``; None where nothing was counted."""


@dataclass(frozen=True)
class Numbers:
    """A server during a window; rates are a second, times in milliseconds.

    Attributes:
        window_s: Length; the whole life of the replicas in the first one.
        age_s: How old the youngest values are.
        gateways: Gateways that report.
        replicas: Healthy replicas by deployment.
        versions: Active versions of every model: several while gateways change over.
        requests: All requests.
        goodput: Answers within their budget.
        rungs: Requests by what they got.
        refusals: By reason.
        plans: Answers by representation.
        late: Answers after their budget.
        missed: Requests that were refused because their budget ran out.
        server: Time of generated answers.
        refused: Time of refusals.
        stages: Time in each stage.
        batch_mean: Requests in a batch.
        batches: Batches.
        slack: What was left of the budget, generated answers: 1 of 100, 1 of 20, half of them had less.
        prediction_error: Distance of predicted and measured server time.
        dishonest_share: Of generated answers: predictions that were further off than promised.
        response_bytes: Bodies of answers.
        queue_length: Requests that wait now, all gateways together.
        predicted_wait: Of the gateway where it is longest.
        dropped_traces: Since the start.
    """

    window_s: float
    age_s: float
    gateways: int
    replicas: Mapping[str, int]
    versions: Mapping[str, tuple[str, ...]]
    requests: float
    goodput: float
    rungs: Mapping[str, float]
    refusals: Mapping[str, float]
    plans: Mapping[str, float]
    late: float
    missed: float
    server: Quantiles
    refused: Quantiles
    stages: Mapping[str, Quantiles]
    batch_mean: float | None
    batches: float
    slack: Quantiles
    prediction_error: Quantiles
    dishonest_share: float | None
    response_bytes: float
    queue_length: float
    predicted_wait: float
    dropped_traces: float


def numbers_of(before: Snapshot, now: Snapshot, *, now_s: float, model: str | None = None) -> Numbers:
    """Work out a window.

    Args:
        before: Earlier values; a replica that is not among them counts from its start.
        now: The present ones.
        now_s: Unix time.
        model: The only model to look at.
    """
    earlier, present = before.gateways, now.gateways
    changes = {name: series.since(earlier.get(name)) for name, series in present.items()}
    lengths_s = {
        name: series.read_s - (earlier[name].read_s if _goes_on(earlier, name, series) else series.started_s)
        for name, series in present.items()
    }
    window = _Window(changes, lengths_s, {} if model is None else {"model": model})
    rungs = window.rates("requests_total", "rung")
    misses = window.rates("deadline_misses_total", "answer")
    late = misses.get("late", 0.0)
    answered = sum(rungs.get(rung, 0.0) for rung in ANSWERED)
    batches = window.total("batch_size_count")
    generated = window.total("server_ms_count", rung="plan")
    return Numbers(
        window_s=max(lengths_s.values(), default=0.0),
        age_s=max(0.0, now_s - max((series.read_s for series in present.values()), default=now_s)),
        gateways=len(present),
        replicas=dict(sorted(now.replicas.items())),
        versions=_versions(present.values(), window.labels),
        requests=sum(rungs.values()),
        goodput=max(0.0, answered - late),
        rungs=rungs,
        refusals=window.rates("refusals_total", "reason"),
        plans=window.rates("plans_total", "plan"),
        late=late,
        missed=misses.get("none", 0.0),
        server=window.quantiles("server_ms", rung="plan"),
        refused=window.quantiles("server_ms", rung="refused"),
        stages={stage: window.quantiles("stage_ms", stage=stage) for stage in STAGES},
        batch_mean=window.total("batch_size_sum") / batches if batches else None,
        batches=sum(window.rates("batch_size_count", "model").values()),
        slack=window.quantiles("budget_slack_ms", {"p1": 0.01, "p5": 0.05, "p50": 0.5}, by="measured"),
        prediction_error=window.quantiles("prediction_error_ms"),
        dishonest_share=window.total("mispredictions_total") / generated if generated else None,
        response_bytes=sum(window.rates("response_bytes_total", "model").values()),
        queue_length=sum(value for series in present.values() for _, value in series.named("queue_length")),
        predicted_wait=max(
            (value for series in present.values() for _, value in series.named("predicted_wait_ms")), default=0.0
        ),
        dropped_traces=sum(value for series in present.values() for _, value in series.named("dropped_traces")),
    )


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Estimate a quantile as Prometheus does: evenly within the bucket it falls into.

    Args:
        buckets: Cumulative counts by upper bound, infinity included.
        share: From 0 to 1.

    Returns:
        None if nothing was counted; the largest bound if it lies above that.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = share * buckets[bounds[-1]]
    lower, below = min(0.0, bounds[0]), 0.0
    for bound in bounds:
        # the replicas' values are not read at one instant, so a count may be a little below the one before it
        count = max(buckets[bound], below)
        if count >= rank and count > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower


class _Window:
    """The changes of all replicas in a window."""

    def __init__(
        self, changes: Mapping[str, Series], lengths_s: Mapping[str, float], labels: Mapping[str, str]
    ) -> None:
        self._changes, self._lengths_s, self.labels = changes, lengths_s, dict(labels)

    def rates(self, name: str, by: str) -> dict[str, float]:
        """Add up what was counted a second, by a label; what did not happen is left out."""
        rates: dict[str, float] = defaultdict(float)
        for replica, series in self._changes.items():
            length_s = self._lengths_s[replica]
            for labels, value in series.named(name, **self.labels):
                if value > 0 and length_s > 0:
                    rates[labels[by]] += value / length_s
        return dict(sorted(rates.items(), key=lambda item: -item[1]))

    def total(self, name: str, **labels: str) -> float:
        """Add up what was counted."""
        return sum(
            value for series in self._changes.values() for _, value in series.named(name, **labels, **self.labels)
        )

    def quantiles(self, name: str, shares: Mapping[str, float] = _QUANTILES, **labels: str) -> dict[str, float | None]:
        """Estimate quantiles of a histogram."""
        buckets: dict[float, float] = defaultdict(float)
        for series in self._changes.values():
            for own, value in series.named(f"{name}_bucket", **labels, **self.labels):
                buckets[float(own["le"])] += value
        return {key: quantile(buckets, share) for key, share in shares.items()}


def _goes_on(before: Mapping[str, Series], name: str, series: Series) -> bool:
    return name in before and before[name].started_s == series.started_s


def _versions(replicas: Iterable[Series], labels: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = defaultdict(set)
    for series in replicas:
        for own, is_active in series.named("active_version", **labels):
            if is_active:
                found[own["model"]].add(own["version"])
    return {model: tuple(sorted(versions)) for model, versions in sorted(found.items())}
