"""Runs side by side: every variant over its seeds, and its paired difference to the static model, user by user.

Ranks come from the best epoch of each run, chosen on validation; the test items are looked at here for the first time.

Shapes: U users.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duet.evaluation.intervals import mean_interval
from duet.evaluation.record import INT8, METRICS, RunRecord
from duet.protocol.errors import UnusableRun
from duet.training.config import difference

METRIC_NAMES = {
    "ndcg@10": "NDCG@10",
    "hr@10": "HR@10",
    "uauc": "UAUC",
    "sampled_ndcg@10": "1+99 NDCG@10",
    "sampled_hr@10": "1+99 HR@10",
}
"""How a person reads the metrics."""

Interval = tuple[float, float, float]
"""A mean and the ends of its 95 % interval over users."""


@dataclass(frozen=True)
class Variant:
    """All seeds of one variant under one condition.

    Attributes:
        name: The variant.
        condition: Which parameters its devices hold.
        records: Its runs, in order of their seeds.
    """

    name: str
    condition: str
    records: tuple[RunRecord, ...]

    @property
    def label(self) -> str:
        """What a row of a table is called: the condition is named where there is a choice."""
        return self.name if len(self.records[0].answers) == 1 else f"{self.name}, {self.condition}"

    @property
    def model(self) -> str:
        """What was trained: ``static``, ``duet``, …; several variants may be one model with other settings."""
        return self.records[0].config.model

    @property
    def served(self) -> tuple[str, ...]:
        """The conditions that devices may really be in; records of before int8 packages were ranked have fewer."""
        return tuple(name for name in self.records[0].served if all(name in record.answers for record in self.records))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, ascending."""
        return tuple(record.seed for record in self.records)

    def under(self, condition: str) -> "Variant":
        """Return the same runs under another condition."""
        return Variant(self.name, condition, self.records)

    def only(self, seeds: Sequence[int]) -> "Variant":
        """Return the runs of some of the seeds."""
        return Variant(self.name, self.condition, tuple(record for record in self.records if record.seed in seeds))

    def by_user(self, metric: str) -> NDArray[np.float64]:
        """Return the value of every user, ``[U]``, seeds averaged that ask the same users."""
        return _over_users([(record, record.values(self.condition, metric)) for record in self.records])

    def means(self, metric: str) -> list[float]:
        """Return the mean over users of each seed."""
        return [float(record.values(self.condition, metric).mean()) for record in self.records]

    def interval(self, metric: str) -> Interval:
        """Return the mean and its interval over users."""
        return mean_interval(self.by_user(metric))

    def minus(self, other: "Variant", metric: str, *, group: str | None = None) -> Interval | None:
        """Return the mean difference to another variant, paired by seed and user, with its interval over users.

        Args:
            other: What is subtracted.
            metric: The metric.
            group: Only these users; everybody by default.

        Returns:
            None if the other one has not been run with every seed of this one.
        """
        theirs = {record.seed: record for record in other.records}
        if not all(seed in theirs for seed in self.seeds):
            return None
        differences = []
        for record in self.records:
            values = record.values(self.condition, metric) - theirs[record.seed].values(other.condition, metric)
            differences.append((record, values if group is None else values[record.group(group)]))
        return mean_interval(_over_users(differences))


@dataclass(frozen=True)
class Row:
    """One variant over its seeds.

    Attributes:
        label: Name of the variant and of the parameters served.
        seeds: Its seeds.
        means: Mean over seeds of the mean over users, by metric.
        deviations: Standard deviation over seeds, by metric; 0 for one seed.
        differences: Mean paired difference to the baseline and its 95 % interval over users, by metric. None for the
            baseline, and where seeds do not match.
        seconds: Mean training time of a run.
        epochs: Mean number of epochs until the best one.
        positions_per_s: Mean training speed.
    """

    label: str
    seeds: tuple[int, ...]
    means: Mapping[str, float]
    deviations: Mapping[str, float]
    differences: Mapping[str, Interval] | None
    seconds: float
    epochs: float
    positions_per_s: float


def group_runs(records: Iterable[RunRecord]) -> dict[str, Variant]:
    """Group runs by variant, in order of first appearance, each under the best condition it has.

    Raises:
        UnusableRun: If runs of one seed were ranked on different users or candidate lists, or runs of one name differ
            in more than the seed or not even in that.
    """
    groups: dict[str, list[RunRecord]] = {}
    first: dict[int, RunRecord] = {}
    for record in records:
        rival = first.setdefault(record.seed, record)
        if _questions(record) != _questions(rival):
            raise UnusableRun(
                path=record.origin,
                reason=f"its users or candidate lists are not those of {rival.origin}",
                remedy="Compare runs of one data set and one held-out part.",
            )
        group = groups.setdefault(record.name, [])
        for other in group:
            config = other.config.model_copy(update={"seed": record.seed})
            different = difference(config, record.config)
            if _conditions(record) != _conditions(other):
                different = f"{', '.join(record.answers)} here, {', '.join(other.answers)} there"
            if other.seed == record.seed or different is not None or other.dataset.name != record.dataset.name:
                raise UnusableRun(
                    path=record.origin,
                    reason=f"it would be averaged with {other.origin} as {record.name!r}, which is no other seed of it"
                    + (f" ({different})" if different else ""),
                    remedy="Leave one of them out.",
                )
        group.append(record)
    return {
        name: Variant(name, next(iter(group[0].answers)), tuple(sorted(group, key=lambda record: record.seed)))
        for name, group in groups.items()
    }


def families(variants: Mapping[str, Variant]) -> dict[str, dict[str, Variant]]:
    """Part variants by their backbone: only those of one device model are worth a table or a plot."""
    parts: dict[str, dict[str, Variant]] = {}
    for name, variant in variants.items():
        parts.setdefault(variant.records[0].config.backbone.name, {})[name] = variant
    return parts


def _conditions(record: RunRecord) -> set[str]:
    return {condition for condition in record.answers if not condition.endswith(INT8)}


def baseline_of(variants: Mapping[str, Variant], model: str, variant: Variant | None = None) -> Variant | None:
    """Return the first baseline of a model: of the variant's very sizes if there is one, else of its backbone."""
    found = [other for other in variants.values() if other.model == model]
    if variant is not None:
        backbone = variant.records[0].config.backbone
        found = [other for other in found if other.records[0].config.backbone.name == backbone.name]
        found.sort(key=lambda other: other.records[0].config.backbone != backbone)
    return found[0] if found else None


def compare(records: Sequence[RunRecord], *, baseline: str = "static") -> list[Row]:
    """Make a row of every variant and every kind of parameters it serves, with differences to the baseline.

    Raises:
        UnusableRun: If the runs cannot be compared (:func:`group_runs`).
    """
    groups = group_runs(records)
    rows = []
    for name, best in groups.items():
        for variant in map(best.under, best.served):
            reference = groups.get(baseline) if name != baseline else None
            rows.append(_row(variant, reference))
    return rows


def _row(variant: Variant, reference: Variant | None) -> Row:
    means = {name: variant.means(name) for name in METRICS}
    paired = {name: variant.minus(reference, name) for name in METRICS} if reference else {}
    training = [record.training for record in variant.records]
    return Row(
        label=variant.label,
        seeds=variant.seeds,
        means={name: float(np.mean(values)) for name, values in means.items()},
        deviations={name: deviation(values) for name, values in means.items()},
        differences={name: interval for name, interval in paired.items() if interval is not None} or None,
        seconds=float(np.mean([run.seconds for run in training])),
        epochs=float(np.mean([run.best_epoch for run in training])),
        positions_per_s=float(np.mean([run.positions_per_s for run in training])),
    )


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation over seeds; 0 for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _questions(record: RunRecord) -> tuple[str, str, str, int]:
    return record.part, record.dataset.sha256, record.candidates, record.dataset.evaluated


def _over_users(values: Sequence[tuple[RunRecord, NDArray[np.float64]]]) -> NDArray[np.float64]:
    """Return one value a user: seeds that ask the same users are averaged, other users are further users."""
    by_users: dict[tuple[str, str, str, int], list[NDArray[np.float64]]] = {}
    for record, own in values:
        by_users.setdefault(_questions(record), []).append(own)
    return np.concatenate([np.mean(own, axis=0) for own in by_users.values()])


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; differences are to the static model, with their intervals."""
    head = ["variant", "seeds", *METRIC_NAMES.values(), "Δ NDCG@10 [95 %]", "Δ UAUC [95 %]", "best epoch", "minutes"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        values = [with_deviation(row.means[name], row.deviations[name], len(row.seeds)) for name in METRIC_NAMES]
        paired = [with_interval((row.differences or {}).get(name)) for name in ("ndcg@10", "uauc")]
        cells = [row.label, str(len(row.seeds)), *values, *paired, f"{row.epochs:.0f}", f"{row.seconds / 60:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_deviation(mean: float, deviation: float, seeds: int) -> str:
    """Format a mean over seeds."""
    return f"{mean:.4f}" + (f" ± {deviation:.4f}" if seeds > 1 else "")


def with_interval(interval: Interval | None) -> str:
    """Format a difference."""
    return "–" if interval is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*interval)
