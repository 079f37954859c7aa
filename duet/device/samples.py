"""Turns what Python code holds of a sample into what a signature checks: a plain list, or the array of a tensor."""

from collections.abc import Sequence

import numpy as np


def plain_sample(sample: object) -> object:
    """Make a list with integers of Python's own out of an array ``[T]``, a range, or any other sequence but text.

    What is no such thing is returned as it is: tensors in arrays and bytes, and what the signature will refuse.

    Args:
        sample: For example ``[1, "b"]``, ``range(3)``, ``deque([1, 2])``, ``[np.int64(1)]``, an integer array ``[T]``.
    """
    if isinstance(sample, np.ndarray) and sample.ndim == 1 and sample.dtype.kind != "f":
        sample = sample.tolist()
    if not isinstance(sample, Sequence) or isinstance(sample, str | bytes | bytearray | memoryview):
        return sample
    return [int(raw) if isinstance(raw, np.integer) else raw for raw in sample]
