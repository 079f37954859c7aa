"""Turns what Python code holds of a user's items into the plain list that a signature checks and JSON carries."""

from collections.abc import Sequence

import numpy as np


def plain_ids(ids: object) -> object:
    """Make a list with integers of Python's own out of ids in an array, a range, or any other sequence but text.

    What is no such thing is returned as it is, for the signature to refuse with its own words.

    Args:
        ids: For example ``[1, "b"]``, ``range(3)``, ``deque([1, 2])``, ``[np.int64(1)]`` or an integer array ``[T]``.
    """
    if isinstance(ids, np.ndarray):
        ids = ids.tolist()
    if not isinstance(ids, Sequence) or isinstance(ids, str | bytes | bytearray | memoryview):
        return ids
    return [int(raw) if isinstance(raw, np.integer) else raw for raw in ids]
