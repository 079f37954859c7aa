"""How many bytes an update of a rival would have, by the rules of the parameter package, which has no form for it.

A header, then every array at a multiple of 16 bytes. An int8 matrix follows its float16 scales, one a row; vectors are
float16 in float16 and int8 packages, as shifts are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from duet.protocol.layers import ALIGNMENT, HEADER_BYTES
from duet.protocol.representation import Dtype

_BYTES = {Dtype.FLOAT32: 4, Dtype.FLOAT16: 2, Dtype.INT8: 1}


@dataclass(frozen=True)
class Array:
    """One array of an update: a matrix, or a vector that must stay exact enough to be added."""

    kind: Literal["matrix", "vector"]
    rows: int
    columns: int


def update_bytes(arrays: Sequence[Array], dtype: Dtype) -> int:
    """Return the bytes of a whole package, header included."""
    total = HEADER_BYTES
    for array in arrays:
        if array.kind == "matrix" and dtype is Dtype.INT8:
            total += _aligned(_BYTES[Dtype.FLOAT16] * array.rows)
        each = _BYTES[dtype] if array.kind == "matrix" else max(_BYTES[dtype], _BYTES[Dtype.FLOAT16])
        total += _aligned(each * array.rows * array.columns)
    return total


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
