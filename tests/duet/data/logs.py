"""Interaction logs for tests of splits and windows, where every interaction can be told from every other."""

import numpy as np

from duet.data.interactions import Interactions


def numbered_log(lengths):
    """Make a log of users with so many interactions; no item occurs twice, so an item names its interaction."""
    count = sum(lengths)
    return Interactions(
        name="numbered",
        items=np.arange(1, count + 1, dtype=np.int32),
        offsets=np.cumsum([0, *lengths]).astype(np.int64),
        users=tuple(f"u{user}" for user in range(len(lengths))),
        item_ids=tuple(range(1001, 1001 + count)),
    )


def log_of(sequences, *, items):
    """Make a log of item sequences over a catalogue of ``items`` items."""
    return Interactions(
        name="written",
        items=np.array([item for sequence in sequences for item in sequence], np.int32),
        offsets=np.cumsum([0, *map(len, sequences)]).astype(np.int64),
        users=tuple(f"u{user}" for user in range(len(sequences))),
        item_ids=tuple(range(1001, 1001 + items)),
    )
