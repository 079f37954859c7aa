"""Splits in time: leave-one-out (last item test, second-last validation), or by two instants that are the same for all.

Shapes: U users, n interactions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from duet.data.interactions import Interactions
from duet.protocol.errors import DatasetTooSmall, InvalidData

Part = Literal["validation", "test"]
MINIMUM_LENGTH = 3
"""A user needs this many interactions to be evaluated; users with fewer are trained on, whole."""


class Split(Protocol):
    """What is trained on, and what is asked of whom."""

    @property
    def interactions(self) -> Interactions:
        """The whole data set."""

    @property
    def train_lengths(self) -> NDArray[np.int64]:
        """How many interactions of each user, from the oldest, may be trained on, ``[U]``."""

    @property
    def unseen(self) -> NDArray[np.int64]:
        """Positions of the users that training never sees."""

    @property
    def told(self) -> str:
        """The protocol, in words."""

    def evaluated(self, part: Part) -> NDArray[np.int64]:
        """Return the positions of the users who have a held-out item in ``part``, without the unseen ones."""

    def asked(self, part: Part) -> NDArray[np.int64]:
        """Return the positions of all users who have one."""

    def history(self, user: int, part: Part) -> NDArray[np.int32]:
        """Return what is known of a user when the item of ``part`` is to be predicted, oldest first."""

    def target(self, user: int, part: Part) -> int:
        """Return the held-out item of a user."""


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

    told = (
        "Trained on all but the last two items of each user. The last but one is the validation item, on which the best"
        "\nepoch was selected; the last is kept for tests and was not looked at."
    )

    def evaluated(self, part: Part) -> NDArray[np.int64]:
        """Return the evaluated users, the same in both parts."""
        return self.users

    def asked(self, part: Part) -> NDArray[np.int64]:
        """Return all users who are long enough, the same in both parts."""
        return np.union1d(self.users, self.unseen)

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
    unseen = _draw(long_enough, unseen_share, seed)
    train_lengths = np.where(lengths >= MINIMUM_LENGTH, lengths - 2, lengths).astype(np.int64)
    train_lengths[unseen] = 0
    trainable = int((train_lengths >= 2).sum())
    if not trainable:
        raise DatasetTooSmall(what="users with at least 2 interactions left for training", count=0, needed=1)
    if len(unseen) == len(long_enough):
        raise DatasetTooSmall(what="users left for validation beside the unseen ones", count=0, needed=1)
    return LeaveOneOut(interactions, train_lengths, np.setdiff1d(long_enough, unseen), unseen)


@dataclass(frozen=True)
class GlobalTime:
    """A split by two instants: nobody trains on anything that happened after the first one.

    Each user is asked once a part: for the first item from the instant on, given everything before it.

    Attributes:
        interactions: The whole data set, with times.
        train_lengths: How many interactions of each user lie before the first instant, int64 ``[U]``; 0 for held-out
            users.
        unseen: Positions of the users that training never sees, int64.
        begins: Seconds since the epoch at which each part begins.
        places: Which interaction of each user is held out, int64 ``[U]``; -1 where there is none with one before it.
    """

    interactions: Interactions
    train_lengths: NDArray[np.int64]
    unseen: NDArray[np.int64]
    begins: Mapping[Part, int]
    places: Mapping[Part, NDArray[np.int64]]

    @property
    def told(self) -> str:
        """The protocol, in words."""
        validation, test = (
            datetime.fromtimestamp(self.begins[part], UTC).isoformat(sep=" ") for part in ("validation", "test")
        )
        return (
            f"Trained on what happened before {validation}. The first item of a user from then until {test} is the\n"
            "validation item, on which the best epoch was selected; the first one after that is kept for tests and was "
            "not\nlooked at. Users without an earlier item are not asked."
        )

    def evaluated(self, part: Part) -> NDArray[np.int64]:
        """Return the users with a held-out item in ``part``; the parts have different ones."""
        return np.setdiff1d(self.asked(part), self.unseen)

    def asked(self, part: Part) -> NDArray[np.int64]:
        """Return the users with a held-out item in ``part``, unseen ones too."""
        return np.flatnonzero(self.places[part] > 0)

    def history(self, user: int, part: Part) -> NDArray[np.int32]:
        """Return what is known of a user when the item of ``part`` is to be predicted, oldest first."""
        return self.interactions.sequence(user)[: self.places[part][user]]

    def target(self, user: int, part: Part) -> int:
        """Return the held-out item of a user."""
        return int(self.interactions.sequence(user)[self.places[part][user]])


def global_time(
    interactions: Interactions,
    *,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    unseen_share: float = 0.0,
    seed: int = 0,
) -> GlobalTime:
    """Split by time alone.

    Args:
        interactions: The data set.
        validation_share: Share of all interactions that lie between the two instants.
        test_share: Share of all interactions that lie after the second one.
        unseen_share: Share of the users kept out of training altogether, drawn by ``seed``.
        seed: Seed of that draw.

    Raises:
        InvalidData: If the log has no times.
        DatasetTooSmall: If nobody is left to train on, or nobody is to be asked in a part.
    """
    times, offsets = interactions.timestamps, interactions.offsets
    if times is None:
        raise InvalidData(
            path=interactions.name,
            line=None,
            expected="a log with times, which data.split=global-time goes by",
            received="one without",
            remedy="Use a source that has them (docs/data.md), or data.split=leave-one-out.",
        )
    if not len(times):
        raise DatasetTooSmall(what="interactions", count=0, needed=MINIMUM_LENGTH)
    ordered = np.sort(times)
    first, second = (
        int(ordered[min(len(ordered) - 1, round((1 - share) * len(ordered)))])
        for share in (validation_share + test_share, test_share)
    )
    owners = np.repeat(np.arange(interactions.user_count), np.diff(offsets))
    # interactions of a user are in order of time, so what lies before an instant comes first
    before_first, before_second = (
        np.bincount(owners[times < instant], minlength=interactions.user_count).astype(np.int64)
        for instant in (first, second)
    )
    places: dict[Part, NDArray[np.int64]] = {
        "validation": np.where((before_first > 0) & (before_second > before_first), before_first, -1),
        "test": np.where((before_second > 0) & (np.diff(offsets) > before_second), before_second, -1),
    }
    unseen = _draw(np.flatnonzero(np.diff(offsets) >= MINIMUM_LENGTH), unseen_share, seed)
    train_lengths = before_first.copy()
    train_lengths[unseen] = 0
    split = GlobalTime(interactions, train_lengths, unseen, {"validation": first, "test": second}, places)
    if not (train_lengths >= 2).any():
        raise DatasetTooSmall(what="users with at least 2 interactions left for training", count=0, needed=1)
    for part in places:
        if not len(split.evaluated(part)):
            raise DatasetTooSmall(what=f"users with an item in the time of {part} and one before", count=0, needed=1)
    return split


def _draw(users: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    drawn = np.random.default_rng([seed, 0xD0E7]).permutation(users)
    return np.sort(drawn[: round(share * len(drawn))])
