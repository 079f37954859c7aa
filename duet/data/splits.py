"""Chronological leave-one-out: last item test, second-last validation, the rest training; held-out users in neither.

Shapes: U users, n interactions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from duet.data.interactions import Interactions
from duet.protocol.errors import DatasetTooSmall

Part = Literal["validation", "test"]
MINIMUM_LENGTH = 3
"""A user needs this many interactions to be evaluated; users with fewer are trained on, whole."""


@dataclass(frozen=True)
class LeaveOneOut:
    """A split of :class:`Interactions`.

    Attributes:
        interactions: The whole data set.
        train_lengths: How many interactions of each user, from the oldest, may be trained on, int64 ``[U]``; 0 for
            held-out users.
        users: Positions of the evaluated users, int64.
        unseen: Positions of the users that training never sees, int64.
    """

    interactions: Interactions
    train_lengths: NDArray[np.int64]
    users: NDArray[np.int64]
    unseen: NDArray[np.int64]

    def history(self, user: int, part: Part) -> NDArray[np.int32]:
        """Return what is known of a user when the item of ``part`` is to be predicted, oldest first."""
        return self.interactions.sequence(user)[: -1 if part == "test" else -2]

    def target(self, user: int, part: Part) -> int:
        """Return the held-out item of a user."""
        return int(self.interactions.sequence(user)[-1 if part == "test" else -2])


def leave_one_out(interactions: Interactions, *, unseen_share: float = 0.0, seed: int = 0) -> LeaveOneOut:
    """Split by time within each user.

    Args:
        interactions: The data set.
        unseen_share: Share of the users kept out of training altogether, drawn by ``seed``.
        seed: Seed of that draw.

    Raises:
        DatasetTooSmall: If no user has enough interactions, or nothing is left to train on or to validate with.
    """
    lengths = np.diff(interactions.offsets)
    long_enough = np.flatnonzero(lengths >= MINIMUM_LENGTH)
    if not len(long_enough):
        raise DatasetTooSmall(what=f"users with at least {MINIMUM_LENGTH} interactions", count=0, needed=1)
    draw = np.random.default_rng([seed, 0xD0E7]).permutation(long_enough)
    unseen = np.sort(draw[: round(unseen_share * len(draw))])
    train_lengths = np.where(lengths >= MINIMUM_LENGTH, lengths - 2, lengths).astype(np.int64)
    train_lengths[unseen] = 0
    trainable = int((train_lengths >= 2).sum())
    if not trainable:
        raise DatasetTooSmall(what="users with at least 2 interactions left for training", count=0, needed=1)
    if len(unseen) == len(long_enough):
        raise DatasetTooSmall(what="users left for validation beside the unseen ones", count=0, needed=1)
    return LeaveOneOut(interactions, train_lengths, np.setdiff1d(long_enough, unseen), unseen)
