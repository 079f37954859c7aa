"""How fast and how steadily variants learn: what the Stable Weight Adapter is said to improve, as numbers.

epochs     until validation first reaches 95 % of a target that all variants reach, the lowest of their best values
roughness  root mean square of the change from one epoch to the next, from there on
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from duet.evaluation.comparison import Variant

SHARE = 0.95


@dataclass(frozen=True)
class Convergence:
    """How the runs of a variant learnt, means over its seeds.

    Attributes:
        variant: The variant.
        best: Best validation value.
        epochs: Epochs until the target.
        roughness: Of validation from there on; not a number if no epoch followed.
    """

    variant: Variant
    best: float
    epochs: float
    roughness: float


def converge(variants: Mapping[str, Variant]) -> list[Convergence]:
    """Compare the training of the variants that generate and have one stage."""
    runs = {
        name: [record.training.history for record in variant.records]
        for name, variant in variants.items()
        if variant.records[0].tested is not None and not any(record.training.meta_epochs for record in variant.records)
    }
    runs = {name: histories for name, histories in runs.items() if all(histories)}
    if not runs:
        return []
    target = SHARE * min(max(history) for histories in runs.values() for history in histories)
    found = []
    for name, histories in runs.items():
        reached = [next(at for at, value in enumerate(history) if value >= target) for history in histories]
        changes = [np.diff(history[at:]) for history, at in zip(histories, reached, strict=True)]
        rough = [float(np.sqrt(np.mean(change**2))) for change in changes if len(change)]
        found.append(
            Convergence(
                variants[name],
                float(np.mean([max(history) for history in histories])),
                float(np.mean(reached)) + 1,
                float(np.mean(rough)) if rough else float("nan"),
            )
        )
    return found
