"""Windows: what a network is fed. Training windows cover every interaction; evaluation samples end at the target.

A window holds at most T items, oldest first, from column 0 on; padding (0) stands at the end.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duet.data.splits import Part, Split


@dataclass(frozen=True)
class Windows:
    """Inputs and next items, int32 ``[W, T]`` each; a target of 0 is not trained."""

    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]

    @property
    def positions(self) -> int:
        """Number of trained positions."""
        return int((self.targets != 0).sum())


def training_windows(split: Split, length: int, *, seed: int, epoch: int) -> Windows:
    """Cut every training sequence into windows; the first window of a user has a random length in 1..T.

    The cuts move from epoch to epoch, so that each interaction is predicted from contexts of all lengths; each one is a
    target exactly once an epoch. Windows come in random order.
    """
    rng = np.random.default_rng([seed, epoch])
    data = split.interactions
    users = np.flatnonzero(split.train_lengths >= 2)
    begins = data.offsets[users]
    targets = split.train_lengths[users] - 1
    first = np.minimum(rng.integers(1, length + 1, len(users)), targets)
    windows = 1 + -(-(targets - first) // length)
    owner = np.repeat(np.arange(len(users)), windows)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(windows) - windows, windows)
    start = np.where(rank == 0, 0, first[owner] + (rank - 1) * length)
    stop = np.minimum(first[owner] + rank * length, targets[owner])
    order = rng.permutation(len(owner))
    columns = np.arange(length)
    inside = columns < (stop - start)[order, None]
    at = np.where(inside, (begins[owner] + start)[order, None] + columns, 0)
    inputs = np.where(inside, data.items[at], 0).astype(np.int32)
    following = np.where(inside, data.items[np.where(inside, at + 1, 0)], 0).astype(np.int32)
    return Windows(inputs, following)


def evaluation_samples(
    split: Split, users: NDArray[np.int64], part: Part, length: int, *, lag: int = 0
) -> NDArray[np.int32]:
    """Return the last T items known before the held-out one, int32 ``[len(users), T]``.

    Args:
        split: The split.
        users: Positions of the users.
        part: Which held-out item is to be predicted.
        length: Sample length T.
        lag: Leave out this many of the newest interactions (stale samples); at least one is kept.
    """
    samples = np.zeros((len(users), length), np.int32)
    for row, user in enumerate(users):
        history = split.history(int(user), part)
        kept = history[: max(1, len(history) - lag)][-length:]
        samples[row, : len(kept)] = kept
    return samples


def last_positions(samples: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the flat index in ``[W * T]`` of the newest item of each sample ``[W, T]``."""
    counts = (samples != 0).sum(axis=1)
    last: NDArray[np.int64] = np.arange(len(samples)) * samples.shape[1] + np.maximum(counts, 1) - 1
    return last
