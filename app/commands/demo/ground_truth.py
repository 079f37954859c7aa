"""What the synthetic world knows about the demo's rankings: how good they could be at best, and without the device."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.commands.demo.devices import TOP, Moment
from duet.data.loading import synthetic_world

_BLOCK = 50  # moments scored together


def ground_truth(source: str, seed: int, moments: Sequence[Moment], *, window: int) -> str | None:
    """Say which NDCG@10 the world's own knowledge reaches on the same rankings.

    Args:
        source: Source of the data.
        seed: Seed of the world.
        moments: Every ranking that the devices made.
        window: How many of its latest interactions a device sends.

    Returns:
        A sentence, or None for real data.
    """
    world = synthetic_world(source, seed=seed)
    if world is None:
        return None
    totals = np.zeros(3)
    for start in range(0, len(moments), _BLOCK):
        device = np.array([moment.user for moment in moments[start : start + _BLOCK]])
        step = np.array([moment.step for moment in moments[start : start + _BLOCK]])
        taken = world.taken_items(device, step)
        rankings = (
            world.shared_scores(device, step),
            world.estimated_scores(device, step, window=window),
            world.oracle_scores(device, step),
        )
        totals += [_ndcg(scores, taken).sum() for scores in rankings]
    shared, estimated, oracle = totals / len(moments)
    return (
        f"Ground truth on the same rankings: {shared:.4f} for the best that knows the context alone, {estimated:.4f} "
        f"for tastes estimated from the last {window} interactions with the world's own formulas, {oracle:.4f} for "
        "the true tastes."
    )


def _ndcg(scores: NDArray[np.float64], taken: NDArray[np.int64]) -> NDArray[np.float64]:
    rank = 1 + (scores > np.take_along_axis(scores, taken[:, None], axis=1)).sum(axis=1)
    return np.where(rank <= TOP, 1 / np.log2(1 + rank), 0.0)
