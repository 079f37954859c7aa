"""The compiled form of the operations that write slabs, for hosts: host_slabs.c, built when the package is installed.

Shapes: B batch of devices, P flat parameters.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from kernels.slab_layout import Plans
from kernels.slabs import Slabs

LIBRARY = "kernels._host_slabs"

LANES = 16
"""Values that lie together in what ``Generation.packed`` points to."""

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
    write_into(data.data_ptr(), flags.data_ptr(), values.data_ptr(), values.stride(0), base.data_ptr(), plans, chosen)
    return Slabs(data, starts, flags, plans, chosen)


def write_into(
    slabs: int, flags: int, values: int, stride: int, base: int, plans: Plans, chosen: Sequence[int]
) -> None:
    """Write all slabs from the address ``slabs`` on, and a flag a device from ``flags`` on.

    Args:
        slabs: Where they go.
        flags: Where the flags go, a byte each.
        values: Address of the flat values.
        stride: From one device's values to the next, in elements.
        base: Address of the shared parameters.
        plans: The layouts.
        chosen: Number of the layout of every device.

    Raises:
        MemoryError: If there is no memory for one row.
    """
    table, numbers = plans.host_table, array("i", chosen)
    status = _library().duet_write_slabs(
        values,
        stride,
        base,
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


class Generation(ctypes.Structure):
    """What the library knows of a generator beforehand: addresses and sizes, as ``host_slabs.c`` lays them out."""

    _fields_ = (
        ("packed", _POINTER),
        ("bias", _POINTER),
        ("base", _POINTER),
        ("arrays", _POINTER),
        ("plans", _POINTER),
        ("width", _COUNT),
        ("count", _COUNT),
        ("longest_row", _COUNT),
    )


def generate_slabs(
    generation: Generation, embeddings: bytes, chosen: Sequence[int], slab_bytes: int
) -> tuple[bytes, bytes]:
    """Generate all slabs in one call, without the interpreter's lock.

    Args:
        generation: The bound operands; what it points to must be alive.
        embeddings: ``[B, D]`` float32.
        chosen: Number of the layout of every device.
        slab_bytes: Of all slabs.

    Returns:
        What begins with the slabs, and a byte a device: 1 if all of its slab is finite.

    Raises:
        MemoryError: If there is no memory for the values of four devices.
    """
    B = len(chosen)
    if not B:
        return b"", b""
    written = bytearray(slab_bytes + B)
    # not as an array of ctypes: a type for each length is made anew each time, which costs more than the work
    start = ctypes.addressof(ctypes.c_char.from_buffer(written))
    if _library().duet_generate(generation, embeddings, array("i", chosen).tobytes(), B, start, slab_bytes):
        raise MemoryError(f"Expected memory for {4 * generation.count} numbers, got none.")
    whole = bytes(written)
    return whole, whole[slab_bytes:]


class SingleSlab:
    """Generates the slab of a device that comes alone: all that follows from its plan is worked out before."""

    def __init__(self, generation: Generation, plans: Plans, number: int) -> None:
        """Bind the plan ``number``; what ``generation`` points to must be alive."""
        layout = plans.layouts[number]
        self._size, self._pitch = layout.slab_bytes, layout.pitch
        self._generation, self._chosen = generation, array("i", [number]).tobytes()
        self._written = ctypes.c_char * (layout.pitch + 1)
        self._generate = _library().duet_generate

    def generate(self, embedding: bytes) -> bytes | None:
        """Generate it from ``[D]`` float32; None if a number is not finite.

        Raises:
            MemoryError: If there is no memory for the values of four devices.
        """
        written = self._written()
        if self._generate(self._generation, embedding, self._chosen, 1, written, self._pitch):
            raise MemoryError(f"Expected memory for {4 * self._generation.count} numbers, got none.")
        whole = written.raw
        return whole[: self._size] if whole[self._pitch] else None


@cache
def _library() -> ctypes.CDLL:
    spec = find_spec(LIBRARY)
    assert spec is not None  # the dispatcher asks is_built first
    assert spec.origin is not None
    library = ctypes.CDLL(spec.origin)
    library.duet_write_slabs.restype = ctypes.c_int
    library.duet_write_slabs.argtypes = [
        *(_POINTER, _COUNT, _POINTER),  # values, their stride, base
        *(_POINTER, _POINTER, _POINTER),  # arrays, plans, the chosen ones
        *(_COUNT, _COUNT),  # B, the longest row
        *(_POINTER, _POINTER),  # slabs, flags
    ]
    library.duet_generate.restype = ctypes.c_int
    library.duet_generate.argtypes = [
        *(ctypes.POINTER(Generation), _POINTER, _POINTER),  # what is bound, embeddings, the chosen ones
        *(_COUNT, _POINTER, _COUNT),  # B, where slabs and flags go, bytes of the slabs
    ]
    return library
