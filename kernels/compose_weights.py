"""Dynamic-layer weights and biases of a batch of devices, composed and written in package layout.

    W[b] = base_weight + sum_r left[b, r] (outer) right[b, r]
    c[b] = base_bias + shift[b]

The weight is stored as float32 or float16, or quantised row by row as in ``quantize_factors``; sums are float32.

Shapes: B batch of devices, M output features, K input features, R rank, P flat parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.dispatcher import Backend, jit, on_device_of, resolve_backend, table_on, tl
from kernels.quantize_factors import (
    allocate_slabs,
    check_values,
    clear_overflow,
    magnitude,
    slab_views,
    store_rows_reference,
    store_tile,
    zero_gaps,
)
from kernels.slab_layout import ComposeLayout, pitch_bytes


def compose_weights_reference(values: Tensor, base: Tensor, layout: ComposeLayout) -> tuple[Tensor, Tensor]:
    """Define :func:`compose_weights` in plain PyTorch; the CPU path and the oracle of the tests."""
    B = values.shape[0]
    slabs = torch.zeros(B, pitch_bytes(layout.slab_bytes), dtype=torch.uint8, device=values.device)
    finite = torch.ones(B, dtype=torch.bool, device=values.device)
    for segment in layout.segments:
        M, K, R = segment.outputs, segment.inputs, segment.rank
        if M == 0 or K == 0:
            continue
        left = values[:, segment.left : segment.left + R * M].view(B, R, M)
        right = values[:, segment.right : segment.right + R * K].view(B, R, K)
        shift = values[:, segment.shift : segment.shift + M]
        base_weight = base[segment.base_weight : segment.base_weight + M * K].view(M, K)
        base_bias = base[segment.base_bias : segment.base_bias + M]
        weight = torch.baddbmm(base_weight, left.mT, right) if R else base_weight.expand(B, M, K)
        bias = (base_bias + shift).unsqueeze(1)
        # an input that is not finite leaves a sum that is not finite, so the sums tell of both
        finite &= store_rows_reference(
            slabs, weight, dtype=segment.dtype, target=segment.target, scale_target=segment.scale_target
        )
        finite &= store_rows_reference(slabs, bias, dtype=segment.bias_dtype, target=segment.bias_target)
    return slabs[:, : layout.slab_bytes], finite


@jit
def _compose_tile(
    left_ptr, right_ptr, base_ptr, outputs, inputs, rank, rows, in_rows, columns, BLOCK_COLUMNS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Return a tile ``[rows, columns]`` of base plus the low-rank product, float32, and its mask."""
    in_columns = columns < inputs
    inside = in_rows[:, None] & in_columns[None, :]
    flat = rows.to(tl.int64)[:, None] * inputs + columns[None, :]
    tile = tl.load(base_ptr + flat, mask=inside, other=0.0)
    # outer products: float32 factors on the tensor cores would be rounded to tf32
    for r in range(rank):
        u = tl.load(left_ptr + r * outputs + rows, mask=in_rows, other=0.0)
        v = tl.load(right_ptr + r * inputs + columns, mask=in_columns, other=0.0)
        tile += u[:, None] * v[None, :]
    return tile, inside


@jit
def _compose_weights_kernel(
    values_ptr,
    base_ptr,
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
    tiles_ptr += tl.program_id(1) * (13 + 2 * GAPS)
    left = tl.load(tiles_ptr)
    right = tl.load(tiles_ptr + 1)
    shift = tl.load(tiles_ptr + 2)
    base_weight = tl.load(tiles_ptr + 3)
    base_bias = tl.load(tiles_ptr + 4)
    outputs = tl.load(tiles_ptr + 5)
    inputs = tl.load(tiles_ptr + 6)
    rank = tl.load(tiles_ptr + 7)
    target = tl.load(tiles_ptr + 8)
    scale_target = tl.load(tiles_ptr + 9)
    bias_target = tl.load(tiles_ptr + 10)
    dtype = tl.load(tiles_ptr + 11)
    first_row = tl.load(tiles_ptr + 12)
    if IS_ALIGNED:
        left = tl.multiple_of(left, 16)
        right = tl.multiple_of(right, 16)
        shift = tl.multiple_of(shift, 16)
        base_weight = tl.multiple_of(base_weight, 16)
        base_bias = tl.multiple_of(base_bias, 16)
        outputs = tl.multiple_of(outputs, 16)
        inputs = tl.multiple_of(inputs, 16)
    values_ptr += b * values_stride
    slab_f32_ptr += b * (pitch // 4)
    slab_f16_ptr += b * (pitch // 2)
    slab_i8_ptr += b * pitch
    left_ptr = values_ptr + left
    right_ptr = values_ptr + right
    weight_ptr = base_ptr + base_weight

    rows = first_row + tl.arange(0, BLOCK_ROWS)
    in_rows = rows < outputs
    columns = tl.arange(0, BLOCK_COLUMNS)
    tile, inside = _compose_tile(
        left_ptr, right_ptr, weight_ptr, outputs, inputs, rank, rows, in_rows, columns, BLOCK_COLUMNS
    )
    largest = tl.max(magnitude(tile), 1)
    if IS_WIDE:
        for start in range(BLOCK_COLUMNS, inputs, BLOCK_COLUMNS):
            columns = start + tl.arange(0, BLOCK_COLUMNS)
            tile, inside = _compose_tile(
                left_ptr, right_ptr, weight_ptr, outputs, inputs, rank, rows, in_rows, columns, BLOCK_COLUMNS
            )
            largest = tl.maximum(largest, tl.max(magnitude(tile), 1))
    overflows, largest = clear_overflow(largest, dtype)
    tl.store(finite_ptr + b, 0, mask=overflows)
    for start in range(0, inputs if IS_WIDE else 1, BLOCK_COLUMNS):
        if IS_WIDE:
            columns = start + tl.arange(0, BLOCK_COLUMNS)
            tile, inside = _compose_tile(
                left_ptr, right_ptr, weight_ptr, outputs, inputs, rank, rows, in_rows, columns, BLOCK_COLUMNS
            )
        store_tile(
            tile,
            largest,
            inside,
            rows,
            in_rows,
            columns,
            inputs,
            dtype,
            target,
            scale_target,
            slab_f32_ptr,
            slab_f16_ptr,
            slab_i8_ptr,
        )

    bias = tl.load(base_ptr + base_bias + rows, mask=in_rows, other=0.0)
    bias += tl.load(values_ptr + shift + rows, mask=in_rows, other=0.0)
    bias_dtype = tl.minimum(dtype, 1)
    overflows, _ = clear_overflow(magnitude(bias), bias_dtype)
    tl.store(finite_ptr + b, 0, mask=overflows)
    if bias_dtype == 1:
        tl.store(slab_f16_ptr + tl.multiple_of(bias_target // 2, 8) + rows, bias.to(tl.float16), mask=in_rows)
    else:
        tl.store(slab_f32_ptr + tl.multiple_of(bias_target // 4, 4) + rows, bias, mask=in_rows)
    zero_gaps(tiles_ptr + 13, slab_i8_ptr, GAPS)


def _compose_weights_triton(values: Tensor, base: Tensor, layout: ComposeLayout) -> tuple[Tensor, Tensor]:
    tiling = layout.tiling
    slabs, finite = allocate_slabs(values, layout.slab_bytes, tiling)
    if tiling.table and values.shape[0]:
        with on_device_of(values):
            _compose_weights_kernel[values.shape[0], len(tiling.table)](
                values,
                base,
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


def compose_weights(
    values: Tensor, base: Tensor, layout: ComposeLayout, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """Compose the weight and the bias of every dynamic layer of every device into its slab.

    Args:
        values: Flat generated values, ``[B, P]`` float32, each row contiguous; nothing flows back through them.
        base: Shared weights and biases, flat, ``[Pb]`` float32.
        layout: Which values meet which shared parameters, and where the result goes, as what.
        backend: ``"auto"`` runs Triton on CUDA tensors and the reference elsewhere.

    Returns:
        Slabs and flags, as :func:`kernels.quantize_factors.quantize_factors` returns them.

    Raises:
        ValueError: If an operand has another shape, dtype, device or order in memory, or is too short.
    """
    check_values(values, layout.required_values)
    if base.dim() != 1 or base.dtype != torch.float32 or base.shape[0] < layout.required_base:
        raise ValueError(
            f"Expected a flat float32 base of {layout.required_base} or more elements, "
            f"got {base.dtype} {list(base.shape)}."
        )
    if base.device != values.device or not base.is_contiguous():
        raise ValueError(f"Expected a contiguous base on {values.device}, got one on {base.device}; copy it first.")
    run = compose_weights_reference if resolve_backend(backend, values) == "reference" else _compose_weights_triton
    return run(values.detach(), base.detach(), layout)
