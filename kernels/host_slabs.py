"""The compiled form of the operations that write slabs, for hosts: host_slabs.c, built when the package is installed.

Shapes: B batch of devices, P flat parameters.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from kernels.slab_layout import Plans
from kernels.slabs import Slabs

LIBRARY = "kernels._host_slabs"

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64


def is_built() -> bool:
    """Tell whether a C compiler was there when the package was installed."""
    return find_spec(LIBRARY) is not None


def write_host_slabs(values: Tensor, base: Tensor, plans: Plans, chosen: Sequence[int]) -> Slabs:
    """Write all slabs in one call, without the interpreter's lock; ``base`` is not read where every plan is direct.

    The operands are those of :func:`kernels.compose_weights.compose_weights`, checked, on the host.
    """
    starts = plans.starts(chosen)
    data = torch.empty(starts[-1], dtype=torch.uint8)
    flags = torch.empty(len(chosen), 1, dtype=torch.uint8)
    write_into(data.data_ptr(), flags.data_ptr(), values, base, plans, chosen)
    return Slabs(data, starts, flags, plans, chosen)


def write_into(slabs: int, flags: int, values: Tensor, base: Tensor, plans: Plans, chosen: Sequence[int]) -> None:
    """Write all slabs from the address ``slabs`` on, and a flag a device from ``flags`` on.

    Raises:
        MemoryError: If there is no memory for one row.
    """
    table, numbers = plans.host_table, array("i", chosen)
    status = _function()(
        values.data_ptr(),
        values.stride(0),
        base.data_ptr(),
        table.arrays.buffer_info()[0],
        table.plans.buffer_info()[0],
        numbers.buffer_info()[0],
        len(chosen),
        table.longest_row,
        slabs,
        flags,
    )
    if status:
        raise MemoryError(f"Expected memory for a row of {table.longest_row} numbers, got none.")


@cache
def _function() -> Callable[..., int]:
    spec = find_spec(LIBRARY)
    assert spec is not None  # the dispatcher asks is_built first
    assert spec.origin is not None
    function = ctypes.CDLL(spec.origin).duet_write_slabs
    function.restype = ctypes.c_int
    function.argtypes = [
        *(_POINTER, _COUNT, _POINTER),  # values, their stride, base
        *(_POINTER, _POINTER, _POINTER),  # arrays, plans, the chosen ones
        *(_COUNT, _COUNT),  # B, the longest row
        *(_POINTER, _POINTER),  # slabs, flags
    ]
    return function
