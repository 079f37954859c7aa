"""Whether two contenders give the same packages: the same names, and numbers within the tolerance of a publication."""

from collections.abc import Sequence

import numpy as np

from duet.protocol.layers import LayerTable
from duet.protocol.package import LayerValues, ParameterPackage
from duet.protocol.representation import Dtype
from duet.publishing import PARITY_TOLERANCE

_ROUNDING = {Dtype.FLOAT32: 0.0, Dtype.FLOAT16: 2.0**-10, Dtype.INT8: 1 / 127}
"""What one rounding may change, as a part of the largest number of an array."""


def first_difference(expected: Sequence[bytes], answers: Sequence[bytes], table: LayerTable) -> str:
    """Find what differs first; empty if nothing does.

    Args:
        expected: Packages to compare with.
        answers: Packages to the same requests.
        table: The layers of both.

    Returns:
        What a person can read.

    Raises:
        PackageError: If one is no package.
    """
    for number, pair in enumerate(zip(expected, answers, strict=True)):
        right, other = (ParameterPackage.decode(content, table) for content in pair)
        for name in ("representation", "version", "tag"):
            if getattr(right, name) != getattr(other, name):
                return f"answer {number} has {name} {getattr(other, name)!s}, not {getattr(right, name)!s}"
        rounding = _ROUNDING[right.representation.dtype]
        values, others = right.values(), other.values()
        for layer in values:
            excess = _excess(values[layer], others[layer], rounding)
            if excess > PARITY_TOLERANCE:
                return f"layer {layer} of answer {number} differs by {excess:.2e}, more than {PARITY_TOLERANCE}"
    return ""


def _excess(right: LayerValues, other: LayerValues, rounding: float) -> float:
    """Return the largest difference beyond one rounding."""
    excesses = [0.0]
    for name, array in vars(right).items():
        if array is not None:
            allowed = rounding * float(np.abs(array).max(initial=0))
            excesses.append(float(np.abs(array - getattr(other, name)).max(initial=0)) - allowed)
    return max(excesses)
