"""Accuracy of trained runs on unseen devices, under every condition of their parameters, and the paired differences.

    factors-r4, full, shared   what the run serves, and every smaller power of two of a rank
    stale-<k>                  generated from the pictures up to k before those that are asked about
    mean, swapped              of the mean embedding of all devices; of another device

Shapes: U devices, Q pictures asked about, N classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duet.data.digits import CLASSES, DigitDevices
from duet.data.splits import Part
from duet.evaluation.comparison import deviation, with_deviation, with_interval
from duet.evaluation.conditions import best_head, describe, ladder, partners
from duet.evaluation.intervals import mean_interval
from duet.networks.duet_network import SHARED, DuetNetwork, Served
from duet.protocol.canonical_json import Json
from duet.protocol.errors import UnusableRun
from duet.training import checkpoint
from duet.training.classification import ask_pictures, right_answers, sample_embeddings
from duet.training.networks import build_network
from duet.training.tasks import task_of

STALENESS = (4, 8, 16)
"""Ages of stale parameters in pictures."""

BASELINE = "static"


@dataclass(frozen=True)
class DeviceAnswers:
    """One run on the unseen devices of a part.

    Attributes:
        name: The variant.
        seed: Its seed, which also makes the devices.
        fingerprint: Of the data.
        labels: Classes of the pictures, int64 ``[U, Q]``.
        right: Which were classified rightly, ``[U, Q]``, by condition, the best that is served first.
        tested: The condition that stale, mean and swapped parameters are compared with; None if nothing is generated.
        seconds: Training and validation time.
        best_epoch: The epoch that was measured.
    """

    name: str
    seed: int
    fingerprint: str
    labels: NDArray[np.int64]
    right: Mapping[str, NDArray[np.bool_]]
    tested: str | None
    seconds: float
    best_epoch: int

    def by_device(self, condition: str) -> NDArray[np.float64]:
        """Return the accuracy of each device, ``[U]``."""
        accuracies: NDArray[np.float64] = self.right[condition].mean(axis=1)
        return accuracies

    def by_class(self, condition: str) -> float:
        """Return the mean over classes of the share of their pictures that was classified rightly."""
        right = self.right[condition]
        return float(np.mean([right[self.labels == each].mean() for each in range(CLASSES) if each in self.labels]))


def answer_devices(folder: Path, data: DigitDevices, part: Part = "test") -> DeviceAnswers:
    """Classify the pictures of unseen devices with the best epoch of a run, under all conditions.

    Raises:
        UnusableRun: If the folder is no run, has no finished epoch, or was trained on other data.
    """
    config = checkpoint.read_run_config(folder)
    checkpoint.check_data(folder, data)
    network = build_network(config, task_of(config, data).outputs)
    checkpoint.load_best(folder, network)
    network.eval()
    length, progress = config.backbone.length, checkpoint.read_progress(folder)
    questions = ask_pictures(data.part(part), length)
    served: tuple[Served, ...] = network.served  # type: ignore[assignment]
    right = {
        str(parameters): right_answers(network, questions, parameters)
        for parameters in dict.fromkeys((*ladder(served), SHARED))
    }
    tested = None
    if isinstance(network, DuetNetwork):
        tested = best_head(folder, progress.best_epoch, served)
        own = sample_embeddings(network, questions.samples)
        embeddings = {
            f"stale-{lag}": sample_embeddings(network, ask_pictures(data.part(part), length, lag=lag).samples)
            for lag in STALENESS
        }
        embeddings["mean"] = own.mean(dim=0, keepdim=True).expand_as(own)
        embeddings["swapped"] = own[partners(len(own))]
        right |= {name: right_answers(network, questions, tested, embeddings=each) for name, each in embeddings.items()}
    return DeviceAnswers(
        describe(config),
        config.seed,
        data.fingerprint(),
        questions.labels,
        right,
        None if tested is None else str(tested),
        progress.seconds,
        progress.best_epoch,
    )


@dataclass(frozen=True)
class Row:
    """One variant under one condition, over its seeds.

    Attributes:
        label: Of variant and condition.
        seeds: Its seeds.
        accuracy: Mean over devices, and its standard deviation over seeds.
        by_class: Mean over classes, and its standard deviation over seeds.
        to_static: Mean paired difference of device accuracies to the static model, with its 95 % interval over devices.
        from_own: The same of the parameters that the test of personalisation starts from, less this condition.
        seconds: Mean training time.
    """

    label: str
    seeds: tuple[int, ...]
    accuracy: tuple[float, float]
    by_class: tuple[float, float]
    to_static: tuple[float, float, float] | None
    from_own: tuple[float, float, float] | None
    seconds: float

    def to_json(self) -> dict[str, Json]:
        """Describe the row."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def compare_devices(runs: Sequence[DeviceAnswers]) -> list[Row]:
    """Make a row of every variant and condition; devices of every seed count.

    Raises:
        UnusableRun: If two runs of one variant have the same seed, or runs of one seed other devices.
    """
    groups: dict[str, list[DeviceAnswers]] = {}
    data: dict[int, str] = {}
    for run in runs:
        group = groups.setdefault(run.name, [])
        is_twice = any(run.seed == other.seed for other in group)
        if is_twice or data.setdefault(run.seed, run.fingerprint) != run.fingerprint:
            raise UnusableRun(
                path=f"{run.name} of seed {run.seed}",
                reason="it is there twice" if is_twice else "its devices are not those of the others of this seed",
                remedy="Compare runs of one data set, one of each variant and seed.",
            )
        group.append(run)
    statics = {run.seed: run for run in groups.get(BASELINE, [])}
    return [_row(group, condition, statics) for group in groups.values() for condition in group[0].right]


def _row(group: Sequence[DeviceAnswers], condition: str, statics: Mapping[int, DeviceAnswers]) -> Row:
    own, accuracies = group[0].tested, [run.by_device(condition) for run in group]
    to_static = from_own = None
    if group[0].name != BASELINE and all(run.seed in statics for run in group):
        pairs = zip(accuracies, group, strict=True)
        theirs = [values - statics[run.seed].by_device(str(SHARED)) for values, run in pairs]
        to_static = mean_interval(np.concatenate(theirs))
    if own is not None and (condition.startswith("stale-") or condition in ("mean", "swapped", str(SHARED))):
        pairs = zip(accuracies, group, strict=True)
        from_own = mean_interval(np.concatenate([run.by_device(own) - values for values, run in pairs]))
    means, classes = [float(values.mean()) for values in accuracies], [run.by_class(condition) for run in group]
    return Row(
        label=group[0].name if own is None else f"{group[0].name}, {condition}",
        seeds=tuple(run.seed for run in group),
        accuracy=(float(np.mean(means)), deviation(means)),
        by_class=(float(np.mean(classes)), deviation(classes)),
        to_static=to_static,
        from_own=from_own,
        seconds=float(np.mean([run.seconds for run in group])),
    )


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    head = ["variant", "seeds", "accuracy", "by class", "Δ to static [95 %]", "own less this [95 %]", "minutes"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        values = [with_deviation(*pair, len(row.seeds)) for pair in (row.accuracy, row.by_class)]
        paired = [with_interval(row.to_static), with_interval(row.from_own)]
        cells = [row.label, str(len(row.seeds)), *values, *paired, f"{row.seconds / 60:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
