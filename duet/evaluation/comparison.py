"""Runs side by side: every variant over its seeds, and its paired difference to the static model, user by user.

Ranks come from the best epoch of each run, chosen on validation; the test items are looked at here for the first time.

Shapes: U users.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duet.data.interactions import Interactions
from duet.data.splits import Part
from duet.evaluation.intervals import mean_interval
from duet.networks.duet_network import SHARED, Served
from duet.protocol.errors import UnusableRun
from duet.training import checkpoint
from duet.training.config import TrainingConfig
from duet.training.loop import split_of
from duet.training.networks import build_network
from duet.training.ranking import Ranks, ask, rank

METRICS: Mapping[str, Callable[[Ranks], NDArray[np.float64]]] = {
    "ndcg@10": lambda ranks: ranks.ndcg(10),
    "hr@10": lambda ranks: ranks.hit_rate(10),
    "uauc": lambda ranks: ranks.auc(),
    "sampled_ndcg@10": lambda ranks: ranks.ndcg(10, sampled=True),
    "sampled_hr@10": lambda ranks: ranks.hit_rate(10, sampled=True),
}
"""Per-user metrics by name: full catalogue, then AUC and rankings of 1 positive against 99 sampled negatives."""


@dataclass(frozen=True)
class EvaluatedRun:
    """One run on one part of the data, with one kind of parameters on the devices.

    Attributes:
        folder: The run.
        config: Its configuration.
        progress: Where its training ended.
        served: Which parameters the devices hold.
        users: Positions of the evaluated users ``[U]``.
        metrics: Per-user values ``[U]`` by metric.
        candidates: Hash of the sampled candidate lists.
        positions_per_s: Median training speed over its epochs.
    """

    folder: Path
    config: TrainingConfig
    progress: checkpoint.Progress
    served: Served
    users: NDArray[np.int64]
    metrics: Mapping[str, NDArray[np.float64]]
    candidates: str
    positions_per_s: float

    @property
    def label(self) -> str:
        """What a row of a table is called; runs with equal labels are seeds of one another."""
        if self.config.model != "duet":
            return self.config.model
        heads = "+".join(
            "full" if head == "full" else f"r{self.config.generator.rank}" for head in self.config.generator.heads
        )
        return f"duet {heads}, {self.served}"


@dataclass(frozen=True)
class Row:
    """One variant over its seeds.

    Attributes:
        label: Name of the variant and of the parameters served.
        seeds: Its seeds.
        means: Mean over seeds of the mean over users, by metric.
        deviations: Standard deviation over seeds, by metric; 0 for one seed.
        differences: Mean paired difference to the baseline and its 95 % interval over users, by metric; seeds are
            averaged per user first. None for the baseline, and where seeds do not match.
        seconds: Mean training time of a run.
        epochs: Mean number of epochs until the best one.
        positions_per_s: Mean training speed.
    """

    label: str
    seeds: tuple[int, ...]
    means: Mapping[str, float]
    deviations: Mapping[str, float]
    differences: Mapping[str, tuple[float, float, float]] | None
    seconds: float
    epochs: float
    positions_per_s: float


def evaluate_run(folder: Path, interactions: Interactions, part: Part = "test") -> list[EvaluatedRun]:
    """Rank the held-out item of every user with the best epoch of a run, for all parameters it can serve.

    Raises:
        UnusableRun: If the folder is no run, or was trained on other data.
    """
    config = checkpoint.read_run_config(folder)
    checkpoint.check_data(folder, interactions)
    network = build_network(config, interactions.item_count)
    checkpoint.load_best(folder, network)
    split = split_of(config, interactions)
    questions = ask(split, split.users, part, config.backbone.length)
    progress, speed = checkpoint.read_progress(folder), checkpoint.read_speed(folder)
    served: tuple[Served, ...] = network.served  # type: ignore[assignment]
    evaluated = []
    for parameters in dict.fromkeys((*served, SHARED)):
        ranks = rank(network, questions, parameters)
        metrics = {name: metric(ranks) for name, metric in METRICS.items()}
        evaluated.append(
            EvaluatedRun(folder, config, progress, parameters, split.users, metrics, questions.candidates_hash, speed)
        )
    return evaluated


def compare(runs: Sequence[EvaluatedRun], *, baseline: str = "static") -> list[Row]:
    """Group runs by label, in order of first appearance, and compare each group with the baseline's.

    Raises:
        UnusableRun: If runs were ranked on different users or candidate lists, or runs of one label differ in more
            than the seed or not even in that.
    """
    groups: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        if (run.candidates, run.users.tobytes()) != (runs[0].candidates, runs[0].users.tobytes()):
            raise UnusableRun(
                path=run.folder,
                reason=f"its users or candidate lists are not those of {runs[0].folder}",
                remedy="Compare runs of one data set; where the seed draws the world or the unseen users, of one seed.",
            )
        group = groups.setdefault(run.label, [])
        for other in group:
            if other.config.seed == run.config.seed or _settings(other.config) != _settings(run.config):
                raise UnusableRun(
                    path=run.folder,
                    reason=f"it would be averaged with {other.folder} as {run.label!r}, which is no other seed of it",
                    remedy="Leave one of them out.",
                )
        group.append(run)
    reference = {run.config.seed: run for run in groups.get(baseline, [])}
    return [_row(label, group, reference, is_baseline=label == baseline) for label, group in groups.items()]


def _settings(config: TrainingConfig) -> dict[str, object]:
    """Return what seeds of one another have in common; a log may lie elsewhere."""
    unused = {"generator"} if config.model == "static" else set()
    settings = config.model_dump(exclude={"seed", *unused})
    del settings["data"]["source"]
    return settings


def _row(label: str, group: Sequence[EvaluatedRun], reference: Mapping[int, EvaluatedRun], *, is_baseline: bool) -> Row:
    means = {name: [float(run.metrics[name].mean()) for run in group] for name in METRICS}
    seeds = tuple(sorted(run.config.seed for run in group))
    differences = None
    if not is_baseline and seeds and all(seed in reference for seed in seeds):
        differences = {
            name: mean_interval(
                np.mean([run.metrics[name] - reference[run.config.seed].metrics[name] for run in group], axis=0)
            )
            for name in METRICS
        }
    return Row(
        label=label,
        seeds=seeds,
        means={name: float(np.mean(values)) for name, values in means.items()},
        deviations={name: float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for name, values in means.items()},
        differences=differences,
        seconds=float(np.mean([run.progress.seconds for run in group])),
        epochs=float(np.mean([run.progress.best_epoch for run in group])),
        positions_per_s=float(np.mean([run.positions_per_s for run in group])),
    )


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; differences are to the static model, with their intervals."""
    names = {
        "ndcg@10": "NDCG@10",
        "hr@10": "HR@10",
        "uauc": "UAUC",
        "sampled_ndcg@10": "1+99 NDCG@10",
        "sampled_hr@10": "1+99 HR@10",
    }
    head = ["variant", "seeds", *names.values(), "Δ NDCG@10 [95 %]", "Δ UAUC [95 %]", "best epoch", "minutes"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        values = [
            f"{row.means[name]:.4f}" + (f" ± {row.deviations[name]:.4f}" if len(row.seeds) > 1 else "")
            for name in names
        ]
        paired = (
            ["–", "–"]
            if row.differences is None
            else ["{:+.4f} [{:+.4f}, {:+.4f}]".format(*row.differences[name]) for name in ("ndcg@10", "uauc")]
        )
        cells = [row.label, str(len(row.seeds)), *values, *paired, f"{row.epochs:.0f}", f"{row.seconds / 60:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
