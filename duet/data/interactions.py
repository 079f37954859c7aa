"""Interaction logs in memory: who touched which item, in time order; what every loader returns.

Shapes: U users, N catalogue items, n interactions.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PADDING = 0
"""Item index that means "no item"; catalogue items are 1..N."""


@dataclass(frozen=True)
class Interactions:
    """One data set: the item sequences of all users, oldest first, in compressed rows.

    Attributes:
        name: Name of the data set, as it appears in results.
        items: Catalogue indices 1..N, int32 ``[n]``; user ``u`` owns ``items[offsets[u]:offsets[u + 1]]``.
        offsets: Row boundaries, int64 ``[U + 1]``.
        users: Raw user ids, ``U`` of them.
        item_ids: Raw item ids; ``item_ids[i]`` is catalogue index ``i + 1``.
        titles: Titles a person can read, parallel to ``item_ids``, or None.
        timestamps: Seconds since the epoch, int64 ``[n]``, or None where the source has none.
    """

    name: str
    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    users: tuple[str, ...]
    item_ids: tuple[str | int, ...]
    titles: tuple[str, ...] | None = None
    timestamps: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.users) + 1 or int(self.offsets[-1]) != len(self.items):
            raise ValueError(
                f"Expected offsets [{len(self.users) + 1}] ending at {len(self.items)}, "
                f"got [{len(self.offsets)}] ending at {int(self.offsets[-1])}."
            )
        if len(self.items) and (self.items.min() < 1 or self.items.max() > self.item_count):
            raise ValueError(
                f"Expected item indices in 1..{self.item_count}, got {self.items.min()}..{self.items.max()}."
            )
        if self.titles is not None and len(self.titles) != self.item_count:
            raise ValueError(f"Expected {self.item_count} titles, got {len(self.titles)}.")
        if self.timestamps is not None and len(self.timestamps) != len(self.items):
            raise ValueError(f"Expected {len(self.items)} timestamps, got {len(self.timestamps)}.")

    @property
    def item_count(self) -> int:
        """Catalogue size N, padding not counted."""
        return len(self.item_ids)

    @property
    def user_count(self) -> int:
        """Number of users U."""
        return len(self.users)

    @property
    def summary(self) -> str:
        """How much there is, for a person."""
        return f"{self.user_count:,} users, {self.item_count:,} items, {len(self.items):,} interactions"

    def fingerprint(self) -> str:
        """Return the SHA-256 of catalogue and sequences: equal for logs that lead to the same training."""
        digest = hashlib.sha256(repr(self.item_ids).encode())
        digest.update(self.offsets.astype("<i8").tobytes())
        digest.update(self.items.astype("<i4").tobytes())
        return digest.hexdigest()

    def sequence(self, user: int) -> NDArray[np.int32]:
        """Return the item indices of the user at position ``user``, oldest first (a view)."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]
