"""How a float32 number is stored in a slab: cast, or quantised row by row; one rule for every backend.

    float32, float16:  stored[i, j] = cast(row[i, j])
    int8:              scale[i]     = max(float16(max_j |row[i, j]| / 127), 2**-24)
                       stored[i, j] = clip(round_half_even(row[i, j] / scale[i]), -127, 127)

The *rounded* scale divides, so what a device multiplies by is what was divided by; the smallest float16 keeps the scale
of a row of zeros, or nearly, from being zero. Bit for bit what the encoder of the package format writes.

Shapes: B batch of devices; a segment is an array of ``rows`` by ``columns``.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kernels.dispatcher import jit, tl
from kernels.slab_layout import SlabDtype

LARGEST_QUANTUM = 127.0
SMALLEST_SCALE = 2.0**-24

# magnitudes from here on round to an infinite float16, or give a row an infinite float16 scale
_FLOAT16_OVERFLOW = 65520.0
_OVERFLOW = {"float32": float("inf"), "float16": _FLOAT16_OVERFLOW, "int8": _FLOAT16_OVERFLOW * LARGEST_QUANTUM}


def round_rows(rows: Tensor, dtype: SlabDtype) -> tuple[Tensor, Tensor | None, Tensor]:
    """Quantise float32 ``rows [B, rows, columns]`` if they are to be int8; the copy into a slab casts them.

    Returns:
        What is to be cast, ``[B, rows, columns]``; the float16 scales ``[B, rows]`` of int8, else None; and whether all
        of a device's numbers are finite, before and after the cast, ``[B]``.
    """
    limit = _on(rows.device, _OVERFLOW[dtype])
    # a comparison with NaN is false
    if dtype != "int8":
        return rows, None, rows.abs().amax((1, 2)) < limit
    largest = rows.abs().amax(-1)
    scales = (largest / _on(rows.device, LARGEST_QUANTUM)).to(torch.float16).clamp_min_(SMALLEST_SCALE)
    quanta = rows / scales.unsqueeze(-1)
    return quanta.round_().clamp_(-LARGEST_QUANTUM, LARGEST_QUANTUM), scales, largest.amax(1) < limit


@cache
def _on(device: torch.device, number: float) -> Tensor:
    """Return a number as a tensor; a Python number costs more, and CUDA divides by one off by a bit."""
    return torch.tensor(number, device=device)


@jit
def row_magnitudes(tile) -> tl.tensor:
    """Return the largest ``|x|`` of every row; infinity or NaN where there is one, which a float maximum may lose."""
    # as integers, magnitudes are ordered like floats, with infinity and then NaN on top
    bits = tile.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.max(bits, 1).to(tl.float32, bitcast=True)


@jit
def larger_magnitudes(one, other) -> tl.tensor:
    """Return the larger of two magnitudes, NaN counting most."""
    return tl.maximum(one.to(tl.int32, bitcast=True), other.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


@jit
def clear_overflow(largest, dtype) -> tuple[tl.tensor, tl.tensor]:
    """Tell whether a row maximum overflows what it is stored as, and replace those that do by zero."""
    limit = tl.where(dtype == 2, 65520.0 * 127.0, tl.where(dtype == 1, 65520.0, float("inf")))
    fits = largest < limit
    return tl.min(fits.to(tl.int32), 0) == 0, tl.where(fits, largest, 0.0)


@jit
def store_tile(
    tile,
    inside,
    flat,
    largest,
    rows,
    in_rows,
    dtype,
    target,
    scale_target,
    f32_ptr,
    f16_ptr,
    i8_ptr,
    IS_EXACT: tl.constexpr,
) -> None:
    """Cast or quantise a float32 tile into one slab; its row maxima are finite and below the float16 overflow.

    ``flat`` are the places of the tile's elements in their array; the three pointers are the slab's first byte.
    ``IS_EXACT`` divides; otherwise a product with the reciprocal, a third of the instructions, puts about one number in
    two million, all of them nearly halfway between two quanta, into the other one.
    """
    if dtype == 2:
        scale = tl.div_rn(largest, tl.full(largest.shape, 127.0, tl.float32)).to(tl.float16)
        # 2**-24, the smallest float16
        scale = tl.maximum(scale.to(tl.float32), 5.9604644775390625e-08)
        tl.store(f16_ptr + scale_target * 8 + rows, scale.to(tl.float16), mask=in_rows)
        if IS_EXACT:
            quanta = tl.div_rn(tile, tl.broadcast_to(scale[:, None], tile.shape))
        else:
            quanta = tile * tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)[:, None]
        quanta = tl.minimum(tl.maximum(quanta, -127.0), 127.0)
        # the lowest byte of float32 1.5 * 2**23 + q is q, rounded half to even
        quanta = (quanta + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
        tl.store(i8_ptr + target * 16 + flat, quanta, mask=inside)
    elif dtype == 1:
        tl.store(f16_ptr + target * 8 + flat, tile.to(tl.float16), mask=inside)
    else:
        tl.store(f32_ptr + target * 4 + flat, tile, mask=inside)


@jit
def zero_gaps(gaps_ptr, gap_count, i8_ptr) -> None:
    """Zero the bytes of one slab that fall to this tile."""
    for gap in range(gap_count):
        first = tl.load(gaps_ptr + 2 * gap)
        length = tl.load(gaps_ptr + 2 * gap + 1)
        for start in range(0, length, 16):
            offsets = start + tl.arange(0, 16)
            tl.store(i8_ptr + first + offsets, tl.zeros([16], tl.int8), mask=offsets < length)
