"""Flat generated values cast or quantised into the slabs of a batch of devices, in package layout.

    float32, float16:  slab[b, i, j] = cast(values[b, source + i * columns + j])
    int8:              scale[b, i]   = max(float16(max_j |row[j]| / 127), 2**-24)
                       slab[b, i, j] = clip(round_half_even(row[j] / scale[b, i]), -127, 127)

The *rounded* scale divides, so what a device multiplies by is what was divided by; the smallest float16 keeps the scale
of a row of zeros, or nearly, from being zero. Bit for bit what the encoder of the package format writes.

Shapes: B batch of devices, P flat parameters; a segment is an array of ``rows`` by ``columns``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.dispatcher import Backend, jit, on_device_of, resolve_backend, table_on, tl
from kernels.slab_layout import SlabDtype, SlabLayout, Tiling, pitch_bytes

LARGEST_QUANTUM = 127.0
SMALLEST_SCALE = 2.0**-24

# magnitudes from here on round to an infinite float16, or give a row an infinite float16 scale
_FLOAT16_OVERFLOW = 65520.0
_OVERFLOW = {"float32": float("inf"), "float16": _FLOAT16_OVERFLOW, "int8": _FLOAT16_OVERFLOW * LARGEST_QUANTUM}
_TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16}


def store_rows_reference(
    slabs: Tensor, rows: Tensor, *, dtype: SlabDtype, target: int, scale_target: int = -1
) -> Tensor:
    """Cast or quantise float32 ``rows [B, rows, columns]`` into ``slabs``; return who is finite, ``[B]``."""
    largest = rows.abs().amax(-1)
    if dtype == "int8":
        # a tensor divisor: division by a Python number becomes a product with the reciprocal on CUDA, off by a bit
        scales = (largest / largest.new_tensor(LARGEST_QUANTUM)).to(torch.float16)
        scales.clamp_min_(SMALLEST_SCALE)
        _write_array(slabs, scale_target, scales)
        quanta = rows / scales.to(torch.float32).unsqueeze(-1)
        stored = quanta.round_().clamp_(-LARGEST_QUANTUM, LARGEST_QUANTUM).to(torch.int8)
    else:
        stored = rows.to(_TORCH_DTYPES[dtype])
    _write_array(slabs, target, stored)
    # a comparison with NaN is false
    return largest.amax(1) < _OVERFLOW[dtype]


def quantize_factors_reference(values: Tensor, layout: SlabLayout) -> tuple[Tensor, Tensor]:
    """Define :func:`quantize_factors` in plain PyTorch; the CPU path and the oracle of the tests."""
    B = values.shape[0]
    slabs = torch.zeros(B, pitch_bytes(layout.slab_bytes), dtype=torch.uint8, device=values.device)
    finite = torch.ones(B, dtype=torch.bool, device=values.device)
    for segment in layout.segments:
        if segment.rows * segment.columns == 0:
            continue
        rows = values[:, segment.source : segment.source_end].view(B, segment.rows, segment.columns)
        finite &= store_rows_reference(
            slabs, rows, dtype=segment.dtype, target=segment.target, scale_target=segment.scale_target
        )
    return slabs[:, : layout.slab_bytes], finite


def _write_array(slabs: Tensor, target: int, array: Tensor) -> None:
    """Store ``array`` ``[B, ...]`` at byte ``target`` of every slab."""
    flat = array.flatten(1)
    stop = target + flat.shape[1] * flat.element_size()
    slabs[:, target:stop].view(flat.dtype).copy_(flat)


@jit
def store_tile(
    tile,
    largest,
    inside,
    rows,
    in_rows,
    columns,
    row_columns,
    dtype,
    target,
    scale_target,
    slab_f32_ptr,
    slab_f16_ptr,
    slab_i8_ptr,
) -> None:
    """Cast or quantise a float32 tile into one slab; its row maxima are finite and below the float16 overflow."""
    flat = rows.to(tl.int64)[:, None] * row_columns + columns[None, :]
    if dtype == 2:
        scale = tl.div_rn(largest, tl.full(largest.shape, 127.0, tl.float32)).to(tl.float16)
        # 2**-24, the smallest float16
        scale = tl.maximum(scale.to(tl.float32), 5.9604644775390625e-08)
        tl.store(slab_f16_ptr + tl.multiple_of(scale_target // 2, 8) + rows, scale.to(tl.float16), mask=in_rows)
        quanta = tl.div_rn(tile, tl.broadcast_to(scale[:, None], tile.shape))
        quanta = tl.minimum(tl.maximum(quanta, -127.0), 127.0)
        # the lowest byte of float32 1.5 * 2**23 + q is q, rounded half to even
        quanta = (quanta + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
        tl.store(slab_i8_ptr + tl.multiple_of(target, 16) + flat, quanta, mask=inside)
    elif dtype == 1:
        tl.store(slab_f16_ptr + tl.multiple_of(target // 2, 8) + flat, tile.to(tl.float16), mask=inside)
    else:
        tl.store(slab_f32_ptr + tl.multiple_of(target // 4, 4) + flat, tile, mask=inside)


@jit
def magnitude(tile) -> tl.tensor:
    """Return ``|tile|`` with infinity for NaN, which a maximum would lose."""
    return tl.where(tile == tile, tl.abs(tile), float("inf"))


@jit
def clear_overflow(largest, dtype) -> tuple[tl.tensor, tl.tensor]:
    """Tell whether a row maximum overflows what it is stored as, and replace those that do by zero."""
    limit = tl.where(dtype == 2, 65520.0 * 127.0, tl.where(dtype == 1, 65520.0, float("inf")))
    overflows = largest >= limit
    return tl.max(overflows.to(tl.int32), 0) > 0, tl.where(overflows, 0.0, largest)


@jit
def zero_gaps(gaps_ptr, slab_i8_ptr, GAPS: tl.constexpr) -> None:
    """Zero the bytes of one slab that fall to this tile."""
    for gap in tl.static_range(GAPS):
        first = tl.load(gaps_ptr + 2 * gap)
        length = tl.load(gaps_ptr + 2 * gap + 1)
        for start in range(0, length, 16):
            offsets = start + tl.arange(0, 16)
            tl.store(slab_i8_ptr + first + offsets, tl.zeros([16], tl.int8), mask=offsets < length)


@jit
def _quantize_factors_kernel(
    values_ptr,
    slab_f32_ptr,
    slab_f16_ptr,
    slab_i8_ptr,
    finite_ptr,
    tiles_ptr,
    values_stride,
    pitch,
    GAPS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    IS_WIDE: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
) -> None:
    b = tl.program_id(0).to(tl.int64)
    tiles_ptr += tl.program_id(1) * (7 + 2 * GAPS)
    source = tl.load(tiles_ptr)
    segment_rows = tl.load(tiles_ptr + 1)
    segment_columns = tl.load(tiles_ptr + 2)
    target = tl.load(tiles_ptr + 3)
    scale_target = tl.load(tiles_ptr + 4)
    dtype = tl.load(tiles_ptr + 5)
    first_row = tl.load(tiles_ptr + 6)
    if IS_ALIGNED:
        source = tl.multiple_of(source, 16)
        segment_columns = tl.multiple_of(segment_columns, 16)
    values_ptr += b * values_stride + source
    slab_f32_ptr += b * (pitch // 4)
    slab_f16_ptr += b * (pitch // 2)
    slab_i8_ptr += b * pitch

    rows = first_row + tl.arange(0, BLOCK_ROWS)
    in_rows = rows < segment_rows
    flat_rows = rows.to(tl.int64)[:, None] * segment_columns
    columns = tl.arange(0, BLOCK_COLUMNS)
    inside = in_rows[:, None] & (columns < segment_columns)[None, :]
    tile = tl.load(values_ptr + flat_rows + columns[None, :], mask=inside, other=0.0)  # [BLOCK_ROWS, BLOCK_COLUMNS]
    largest = tl.max(magnitude(tile), 1)
    if IS_WIDE:
        for start in range(BLOCK_COLUMNS, segment_columns, BLOCK_COLUMNS):
            columns = start + tl.arange(0, BLOCK_COLUMNS)
            inside = in_rows[:, None] & (columns < segment_columns)[None, :]
            tile = tl.load(values_ptr + flat_rows + columns[None, :], mask=inside, other=0.0)
            largest = tl.maximum(largest, tl.max(magnitude(tile), 1))
    overflows, largest = clear_overflow(largest, dtype)
    tl.store(finite_ptr + b, 0, mask=overflows)
    for start in range(0, segment_columns if IS_WIDE else 1, BLOCK_COLUMNS):
        if IS_WIDE:
            columns = start + tl.arange(0, BLOCK_COLUMNS)
            inside = in_rows[:, None] & (columns < segment_columns)[None, :]
            tile = tl.load(values_ptr + flat_rows + columns[None, :], mask=inside, other=0.0)
        store_tile(
            tile,
            largest,
            inside,
            rows,
            in_rows,
            columns,
            segment_columns,
            dtype,
            target,
            scale_target,
            slab_f32_ptr,
            slab_f16_ptr,
            slab_i8_ptr,
        )
    zero_gaps(tiles_ptr + 7, slab_i8_ptr, GAPS)


def allocate_slabs(values: Tensor, slab_bytes: int, tiling: Tiling) -> tuple[Tensor, Tensor]:
    """Return slabs for one grouped launch, ``[B, pitch]`` uint8, and flags ``[B]`` that are all set."""
    # the tiles zero the padding, unless there is none to do it
    allocate = torch.empty if tiling.table else torch.zeros
    slabs = allocate(values.shape[0], pitch_bytes(slab_bytes), dtype=torch.uint8, device=values.device)
    return slabs, torch.ones(values.shape[0], dtype=torch.bool, device=values.device)


def slab_views(slabs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the slabs as float32, float16 and int8, the three ways a kernel writes them."""
    return slabs.view(torch.float32), slabs.view(torch.float16), slabs.view(torch.int8)


def _quantize_factors_triton(values: Tensor, layout: SlabLayout) -> tuple[Tensor, Tensor]:
    tiling = layout.tiling
    slabs, finite = allocate_slabs(values, layout.slab_bytes, tiling)
    if tiling.table and values.shape[0]:
        with on_device_of(values):
            _quantize_factors_kernel[values.shape[0], len(tiling.table)](
                values,
                *slab_views(slabs),
                finite.view(torch.uint8),
                table_on(tiling, values.device),
                values.stride(0),
                slabs.stride(0),
                GAPS=tiling.gap_count,
                BLOCK_ROWS=tiling.block_rows,
                BLOCK_COLUMNS=tiling.block_columns,
                IS_WIDE=tiling.is_wide,
                IS_ALIGNED=tiling.is_aligned,
                enable_fp_fusion=True,
            )
    return slabs[:, : layout.slab_bytes], finite


def quantize_factors(values: Tensor, layout: SlabLayout, *, backend: Backend = "auto") -> tuple[Tensor, Tensor]:
    """Write the generated values of every device into its slab.

    Args:
        values: Flat values, ``[B, P]`` float32, each row contiguous; nothing flows back through them.
        layout: Which values go where, and as what.
        backend: ``"auto"`` runs Triton on CUDA tensors and the reference elsewhere.

    Returns:
        Slabs, ``[B, slab_bytes]`` uint8 with zero padding, whose rows start at multiples of 16 bytes (so the batch is
        contiguous only when ``slab_bytes`` is one), and a flag per device, ``[B]`` bool: whether all that went in and
        all that came out is finite. The slab of a device that is not finite must not be sent.

    Raises:
        ValueError: If ``values`` has another shape, dtype or order in memory, or is shorter than the layout reads.
    """
    check_values(values, layout.required_values)
    run = quantize_factors_reference if resolve_backend(backend, values) == "reference" else _quantize_factors_triton
    return run(values.detach(), layout)


def check_values(values: Tensor, required: int) -> None:
    """Raise ``ValueError`` unless ``values`` is float32 ``[B, P]`` with contiguous rows of ``required`` or more."""
    shape = list(values.shape)
    if values.dim() != 2 or values.dtype != torch.float32 or shape[1] < required:
        raise ValueError(f"Expected float32 values [B, P] with P of {required} or more, got {values.dtype} {shape}.")
    if values.stride(1) != 1 and shape[1] > 1:
        raise ValueError(f"Expected values with contiguous rows, got strides {values.stride()}; copy them first.")
