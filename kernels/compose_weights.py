"""The slabs of a batch of devices, in package layout: what is generated, added to what is shared where a plan asks.

    weight[b] = base_weight + sum_r left[b, r] (outer) right[b, r]
    bias[b]   = base_bias + shift[b]
    factor[b] = values[b]

Sums are float32, stored as :mod:`kernels.rounding` says. Every device has its own plan, and one grouped launch over
(device, tile) writes them all: a tile of a plan knows where it reads and which bytes it writes.

Shapes: B batch of devices, M output features, K input features, R rank, P flat parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from kernels.dispatcher import Backend, jit, on_device_of, resolve_backend, tl
from kernels.host_slabs import write_host_slabs
from kernels.rounding import (
    clear_overflow,
    larger_magnitudes,
    round_rows,
    row_magnitudes,
    store_tile,
    zero_gaps,
)
from kernels.slab_layout import Plans, Segment, SlabLayout, TileTable
from kernels.slabs import Slabs, check_values, device_rows
from kernels.tuning import tuned

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}


def compose_weights_reference(values: Tensor, base: Tensor, plans: Plans, chosen: Sequence[int]) -> Slabs:
    """Define :func:`compose_weights` without Triton; the CPU path and the oracle of the tests."""
    slabs = Slabs.allocate(plans, chosen, values.device)
    for plan in dict.fromkeys(chosen):
        layout = plans.layouts[plan]
        rows = [row for row, its in enumerate(chosen) if its == plan]
        if len(rows) == len(chosen):
            _write_bodies(values, base, layout, slabs.data.view(len(rows), layout.pitch), slabs.flags[:, 0])
            continue
        bodies = slabs.data.new_empty(len(rows), layout.pitch)
        finite = slabs.flags.new_ones(len(rows))
        _write_bodies(values[rows], base, layout, bodies, finite)
        slabs.flags[rows, 0] = finite
        for body, row in zip(bodies, rows, strict=True):
            slabs.data[slabs.starts[row] : slabs.starts[row + 1]] = body
    return slabs


def _write_bodies(values: Tensor, base: Tensor, layout: SlabLayout, bodies: Tensor, finite: Tensor) -> None:
    """Write slabs of one layout, ``[B, pitch]``, and clear the flags ``[B]`` of devices that are not finite."""
    if layout.has_padding:
        bodies.zero_()
    for dtype, segments, is_run in layout.alike:
        is_single = len(segments) == 1
        if is_run:
            rows = _cut(values, segments[0].source, (sum(segment.rows for segment in segments), segments[0].columns))
        else:
            sums = [_sum(values, base, segment) for segment in segments]
            rows = sums[0] if is_single else torch.cat(sums, 1)
        # an input that is not finite leaves a sum that is not finite, so the sums tell of both
        rounded, scales, are_finite = round_rows(rows, dtype)
        finite &= are_finite
        first = 0
        for segment in segments:
            last = first + segment.rows
            _store(rounded if is_single else rounded[:, first:last], bodies.view(_DTYPES[dtype]), segment.target)
            if scales is not None:
                _store(scales if is_single else scales[:, first:last], bodies.view(torch.float16), segment.scale_target)
            first = last


def _store(array: Tensor, bodies: Tensor, target: int) -> None:
    """Cast an array into all bodies, from a byte on."""
    _cut(bodies, target // bodies.element_size(), array.shape[1:]).copy_(array)


def _sum(values: Tensor, base: Tensor, segment: Segment) -> Tensor:
    """Return base plus direct plus product of one segment, ``[B, rows, columns]`` in any view of it."""
    M, K, R = segment.rows, segment.columns, segment.rank
    total = base[segment.base : segment.base_end].view(M, K) if segment.base >= 0 else None
    if segment.source >= 0:
        direct = _cut(values, segment.source, (M, K))
        total = direct if total is None else total + direct
    if R:
        left, right = _cut(values, segment.left, (R, M)), _cut(values, segment.right, (R, K))
        total = torch.bmm(left.mT, right) if total is None else torch.baddbmm(total, left.mT, right)
    assert total is not None  # a segment is filled from something
    return total if total.dim() == 3 else total.expand(len(values), M, K)


def _cut(rows: Tensor, start: int, shape: Sequence[int]) -> Tensor:
    """View the elements of every row from ``start`` on as an array, ``[B, *shape]``; slices take three calls for it."""
    strides = (shape[1], 1) if len(shape) == 2 else (1,)
    return rows.as_strided((rows.shape[0], *shape), (rows.stride(0), *strides), rows.storage_offset() + start)


@jit
def _add_product(
    total, left_ptr, right_ptr, outputs, inputs, rank, rows, in_rows, columns, RANK: tl.constexpr
) -> tl.tensor:
    """Add the product of factors, ``[R, M]`` and ``[R, K]`` rank-major, to a tile ``[rows, columns]``, float32."""
    in_columns = columns < inputs
    if RANK <= 4:
        # as many instructions an element as the matrix unit needs with its splitting, and exact
        for r in tl.static_range(RANK):
            u = tl.load(left_ptr + r * outputs + rows, mask=rows < tl.where(r < rank, outputs, 0), other=0.0)
            v = tl.load(right_ptr + r * inputs + columns, mask=in_columns, other=0.0)
            total += u[:, None] * v[None, :]
    else:
        r = tl.arange(0, max(RANK, 8))
        in_rank = r < rank
        left = tl.load(
            left_ptr + r[None, :] * outputs + rows[:, None], mask=in_rows[:, None] & in_rank[None, :], other=0.0
        )
        right = tl.load(
            right_ptr + r[:, None] * inputs + columns[None, :], mask=in_rank[:, None] & in_columns[None, :], other=0.0
        )
        # three products of halves of the mantissa: plain tf32 would lose 13 bits of the factors
        total = tl.dot(left, right, total, input_precision="tf32x3")
    return total


@jit
def _sum_tile(
    values_ptr,
    base_ptr,
    source,
    base,
    left,
    right,
    array_rows,
    array_columns,
    rank,
    rows,
    in_rows,
    columns,
    HAS_BASE: tl.constexpr,
    RANK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return a tile of the sum, ``[rows, columns]`` float32, its mask, and the places of its elements in the array."""
    inside = in_rows[:, None] & (columns < array_columns)[None, :]
    flat = rows[:, None] * array_columns + columns[None, :]
    if HAS_BASE:
        total = tl.zeros(inside.shape, tl.float32)
        if base >= 0:
            total = tl.load(base_ptr + base + flat, mask=inside, other=0.0)
        if source >= 0:
            total += tl.load(values_ptr + source + flat, mask=inside, other=0.0)
    else:
        direct = in_rows[:, None] & (columns < tl.where(source >= 0, array_columns, 0))[None, :]
        total = tl.load(values_ptr + source + flat, mask=direct, other=0.0)
    if RANK > 0:  # noqa: SIM102 - a constant of the build, then a number of the tile
        if rank > 0:
            factors = values_ptr + left, values_ptr + right, array_rows, array_columns, rank
            total = _add_product(total, *factors, rows, in_rows, columns, RANK)
    return total, inside, flat


@jit
def _write_slabs_kernel(
    values_ptr,
    base_ptr,
    slabs_f32_ptr,
    slabs_f16_ptr,
    slabs_i8_ptr,
    flags_ptr,
    tiles_ptr,
    devices_ptr,
    values_stride,
    gap_count,
    HAS_BASE: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    IS_WIDE: tl.constexpr,
    IS_ALIGNED: tl.constexpr,
) -> None:
    b = tl.program_id(0).to(tl.int64)
    flag_ptr = flags_ptr + b * tl.num_programs(1) + tl.program_id(1)
    # places in slabs are read in units of 16 bytes, so that the compiler knows how they are aligned
    start = tl.load(devices_ptr + 3 * b)
    f32_ptr = slabs_f32_ptr + start * 4
    f16_ptr = slabs_f16_ptr + start * 8
    i8_ptr = slabs_i8_ptr + start * 16
    first_tile = tl.load(devices_ptr + 3 * b + 1)
    tile_count = tl.load(devices_ptr + 3 * b + 2)
    # a plan with fewer tiles than the largest of the batch
    if tl.program_id(1) >= tile_count:
        tl.store(flag_ptr, 1)
        return
    tiles_ptr += (first_tile + tl.program_id(1)) * (11 + 2 * gap_count)
    source = tl.load(tiles_ptr)
    base = tl.load(tiles_ptr + 1)
    left = tl.load(tiles_ptr + 2)
    right = tl.load(tiles_ptr + 3)
    array_rows = tl.load(tiles_ptr + 4)
    array_columns = tl.load(tiles_ptr + 5)
    rank = tl.load(tiles_ptr + 6)
    target = tl.load(tiles_ptr + 7)
    scale_target = tl.load(tiles_ptr + 8)
    dtype = tl.load(tiles_ptr + 9)
    first_row = tl.load(tiles_ptr + 10)
    if IS_ALIGNED:
        source = tl.multiple_of(source, 16)
        base = tl.multiple_of(base, 16)
        left = tl.multiple_of(left, 16)
        right = tl.multiple_of(right, 16)
        array_columns = tl.multiple_of(array_columns, 16)
    values_ptr += b * values_stride
    arrays = source, base, left, right, array_rows, array_columns, rank

    places = dtype, target, scale_target, f32_ptr, f16_ptr, i8_ptr

    rows = first_row + tl.arange(0, BLOCK_ROWS)
    in_rows = rows < array_rows
    columns = tl.arange(0, BLOCK_COLUMNS)
    if IS_WIDE:
        # twice over the row: for its largest magnitude, then to store it
        largest = tl.zeros([BLOCK_ROWS], tl.float32)
        for first in tl.range(0, array_columns, BLOCK_COLUMNS, num_stages=1):
            part, _, _ = _sum_tile(values_ptr, base_ptr, *arrays, rows, in_rows, first + columns, HAS_BASE, RANK)
            largest = larger_magnitudes(largest, row_magnitudes(part))
        overflows, largest = clear_overflow(largest, dtype)
        for first in tl.range(0, array_columns, BLOCK_COLUMNS, num_stages=1):
            part, inside, flat = _sum_tile(
                values_ptr, base_ptr, *arrays, rows, in_rows, first + columns, HAS_BASE, RANK
            )
            store_tile(part, inside, flat, largest, rows, in_rows, *places, not HAS_BASE)
    else:
        total, inside, flat = _sum_tile(values_ptr, base_ptr, *arrays, rows, in_rows, columns, HAS_BASE, RANK)
        overflows, largest = clear_overflow(row_magnitudes(total), dtype)
        store_tile(total, inside, flat, largest, rows, in_rows, *places, not HAS_BASE)
    tl.store(flag_ptr, tl.where(overflows, 0, 1))
    zero_gaps(tiles_ptr + 11, gap_count, i8_ptr)


@dataclass(frozen=True)
class LaunchTable:
    """The tiles of all plans, on an accelerator, and how they are launched."""

    tiles: TileTable
    rows: Tensor
    num_warps: int
    has_base: bool


@lru_cache(maxsize=256)
def launch_table(plans: Plans, device: torch.device) -> LaunchTable:
    """Cut the plans as tuned for a device, and copy the tiles there, once."""
    setting = tuned("quantize_factors" if plans.is_direct else "compose_weights", device)
    tiles = plans.tiles(setting.limits)
    rows = torch.tensor(tiles.rows, dtype=torch.int32, device=device)
    return LaunchTable(tiles, rows, setting.num_warps(tiles), plans.required_base > 0)


def launch_slabs(
    values: Tensor, base: Tensor, table: LaunchTable, devices: Tensor, data: Tensor, flags: Tensor
) -> None:
    """Write all slabs in one launch.

    Args:
        values: Flat generated values, ``[B, P]`` float32.
        base: Shared parameters, flat; not read where every plan is direct.
        table: The tiles of the plans.
        devices: What :func:`kernels.slabs.device_rows` tells of every device, int64 ``[B, 3]``.
        data: Where the slabs go, uint8.
        flags: Set where a tile is finite, uint8 ``[B, tiles]``, one column for each tile of the largest plan.
    """
    tiles = table.tiles
    if not flags.numel():
        return
    with on_device_of(values):
        _write_slabs_kernel[flags.shape](
            values,
            base,
            data.view(torch.float32),
            data.view(torch.float16),
            data.view(torch.int8),
            flags,
            table.rows,
            devices,
            values.stride(0),
            tiles.gap_count,
            HAS_BASE=table.has_base,
            RANK=tiles.block_rank,
            BLOCK_ROWS=tiles.block_rows,
            BLOCK_COLUMNS=tiles.block_columns,
            IS_WIDE=tiles.is_wide,
            IS_ALIGNED=tiles.is_aligned,
            num_warps=table.num_warps,
            enable_fp_fusion=True,
        )


def write_slabs(values: Tensor, base: Tensor, plans: Plans, chosen: Sequence[int]) -> Slabs:
    """Write all slabs in one launch; ``base`` is not read where every plan is direct."""
    table = launch_table(plans, values.device)
    slabs = Slabs.allocate(plans, chosen, values.device, flags=table.tiles.tiles_of(chosen))
    devices = torch.tensor(device_rows(slabs.starts, chosen, table.tiles), dtype=torch.int64)
    on_device = devices.view(-1, 3).to(values.device, non_blocking=True)
    launch_slabs(values, base, table, on_device, slabs.data, slabs.flags)
    return slabs


def compose_weights(
    values: Tensor, base: Tensor, plans: Plans, chosen: Sequence[int], *, backend: Backend = "auto"
) -> Slabs:
    """Write the slab of every device: whatever of its plan is shared, direct or a product of factors.

    Args:
        values: Flat generated values, ``[B, P]`` float32, each row contiguous; nothing flows back through them.
        base: Shared weights and biases, flat, ``[Pb]`` float32.
        plans: The layouts that a device may get.
        chosen: Number of the layout of every device, ``B`` of them.
        backend: ``"auto"`` follows the rule of :mod:`kernels.dispatcher`.

    Returns:
        The slabs, and who of the devices is finite.

    Raises:
        ValueError: If an operand has another shape, dtype, device or order in memory, or is too short.
    """
    check_values(values, plans, chosen)
    if base.dim() != 1 or base.dtype != torch.float32 or base.shape[0] < plans.required_base:
        raise ValueError(
            f"Expected a flat float32 base of {plans.required_base} or more elements, "
            f"got {base.dtype} {list(base.shape)}."
        )
    if base.device != values.device or not base.is_contiguous():
        raise ValueError(f"Expected a contiguous base on {values.device}, got one on {base.device}; copy it first.")
    run = _RUNS[resolve_backend(backend, values, has_compiled=True)]
    return run(values.detach(), base.detach(), plans, chosen)


_RUNS = {"reference": compose_weights_reference, "compiled": write_host_slabs, "triton": write_slabs}
