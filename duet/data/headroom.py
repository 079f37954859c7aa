"""How much personalisation is worth in a synthetic world: rankings by its ground truth, compared step by step.

For every sampled (device, step) the item that was taken is ranked among the items the device has not had, by each kind
of score. ``NDCG@10 = 1 / log2(rank + 2)`` for rank 0 to 9, else 0; ``AUC`` = share of the other items ranked below.
Both are means over a device's steps, then over devices. Differences are paired by device; their interval is the
percentile interval of a bootstrap over devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duet.data.synthetic import Floats, SyntheticWorld

_CUTOFF = 10
_RESAMPLES = 2000
_BLOCK = 50  # steps scored together; larger arrays are slower


@dataclass(frozen=True)
class RankingQuality:
    """Quality of one ranking: ``ndcg`` at 10 and ``auc``, means over devices."""

    ranking: str
    ndcg: float
    auc: float


@dataclass(frozen=True)
class Gain:
    """Mean of ``better`` minus ``worse`` in one metric, paired by device, with its 95 % bootstrap interval."""

    better: str
    worse: str
    metric: str
    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Headroom:
    """Qualities of all rankings of a world, best informed first, and the gains of one over another."""

    qualities: tuple[RankingQuality, ...]
    gains: tuple[Gain, ...]

    def quality(self, ranking: str) -> RankingQuality:
        """Return the quality of ``oracle``, ``estimated``, ``stale-<lag>`` or ``shared``."""
        return next(quality for quality in self.qualities if quality.ranking == ranking)

    def gain(self, better: str, worse: str, metric: str = "ndcg") -> Gain:
        """Return the gain of one ranking over another; the metric is ``ndcg`` or ``auc``."""
        return next(gain for gain in self.gains if (gain.better, gain.worse, gain.metric) == (better, worse, metric))


def headroom(
    world: SyntheticWorld,
    *,
    devices: int = 300,
    steps: int = 3,
    lags: Sequence[int] = (10, 20, 40),
    window: int = 20,
    draws: int = 256,
    seed: int = 0,
) -> Headroom:
    """Measure oracle, estimated, stale and shared rankings of a world on the same sampled steps.

    Args:
        world: The world to measure.
        devices: Devices to sample, without repetition; all of them when there are fewer.
        steps: Steps to sample of each device, late enough for every lag and for the window.
        lags: Ages of the stale tastes, in interactions.
        window: Transitions that the estimate sees.
        draws: Tastes drawn for the shared ranking.
        seed: Seed of the sampled steps and of the bootstrap.

    Returns:
        Qualities, and the gains of the oracle and of the estimate over shared, and of the oracle over each lag.

    Raises:
        ValueError: The shortest sequences leave no step for the largest lag or the window.
    """
    rng = np.random.default_rng(seed)
    lengths, earliest = world.lengths, max(window, *lags, 0)
    if lengths.min() <= earliest:
        raise ValueError(f"Expected devices with more than {earliest} interactions, got one with {lengths.min()}.")
    chosen = np.sort(rng.permutation(len(lengths))[:devices])
    device = np.repeat(chosen, steps)
    step = rng.integers(earliest, lengths[device])
    blocks = [
        _measure_block(world, device[part], step[part], lags=lags, window=window, draws=draws)
        for part in np.array_split(np.arange(len(device)), max(1, len(device) // _BLOCK))
    ]
    measured = {
        name: np.concatenate([block[name] for block in blocks]).reshape(len(chosen), steps, 2).mean(axis=1)
        for name in blocks[0]
    }
    pairs = [("oracle", "shared"), ("estimated", "shared"), ("oracle", "estimated")]
    pairs += [("oracle", f"stale-{lag}") for lag in lags]
    resamples = rng.integers(len(chosen), size=(_RESAMPLES, len(chosen)))
    return Headroom(
        qualities=tuple(RankingQuality(name, *map(float, values.mean(axis=0))) for name, values in measured.items()),
        gains=tuple(
            _gain(
                better, worse, metric, differences=(measured[better] - measured[worse])[:, column], resamples=resamples
            )
            for better, worse in pairs
            for column, metric in enumerate(("ndcg", "auc"))
        ),
    )


def _measure_block(
    world: SyntheticWorld,
    device: NDArray[np.int64],
    step: NDArray[np.int64],
    *,
    lags: Sequence[int],
    window: int,
    draws: int,
) -> dict[str, Floats]:
    """NDCG@10 and AUC of every ranking, ``[S, 2]`` each."""
    scores = {
        "oracle": world.oracle_scores(device, step),
        "estimated": world.estimated_scores(device, step, window=window),
        **{f"stale-{lag}": world.stale_scores(device, step, lag) for lag in lags},
        "shared": world.shared_scores(device, step, draws=draws),
    }
    taken = world.taken_items(device, step)
    return {ranking: _measure(values, taken) for ranking, values in scores.items()}


def _measure(scores: Floats, taken: NDArray[np.int64]) -> Floats:
    """NDCG@10 and AUC of the taken items, ``[S, 2]``."""
    own = np.take_along_axis(scores, taken[:, None], axis=1)
    rank = (scores > own).sum(axis=1)
    others = np.isfinite(scores).sum(axis=1) - 1
    return np.stack([np.where(rank < _CUTOFF, 1 / np.log2(rank + 2), 0), 1 - rank / others], axis=1)


def _gain(better: str, worse: str, metric: str, *, differences: Floats, resamples: NDArray[np.int64]) -> Gain:
    """Summarise the differences ``[devices]``; ``resamples [_, devices]`` are the bootstrap's choices of devices."""
    low, high = np.quantile(differences[resamples].mean(axis=1), [0.025, 0.975])
    return Gain(better, worse, metric, value=float(differences.mean()), interval=(float(low), float(high)))
