"""A dynamic layer applied to a batch in which every row has its own low-rank factors, forward and backward.

    y[n] = base @ x[n] + bias + shift[n] + sum_r left[n, r] * (right[n, r] . x[n])

The weight ``base + left[n]^T @ right[n]`` of a row is never built: a row costs R (M + K) products, not M K. A row may
hold several inputs, ``x[n, c]``, that share its factors.

Shapes: N rows, C inputs of a row, M output features, K input features, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.dispatcher import Backend, ResolvedBackend, jit, on_device_of, resolve_backend, tl

FEW_ELEMENTS = 131_072
"""Up to so many elements of all factors one pass over them costs a host less than a call a rank."""


def low_rank_forward_reference(
    x: Tensor, base: Tensor, bias: Tensor, left: Tensor, right: Tensor, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return ``y [N, M]`` and the projections ``right[n, r] . x[n]``, ``[N, R]``, which the backward pass needs."""
    y = _shared_forward(x, base, bias, shift)
    projections = _dot_rows(right, x)
    return _add_scaled_rows(y, projections, left), projections


def low_rank_backward_reference(
    gradient: Tensor, x: Tensor, base: Tensor, left: Tensor, right: Tensor, projections: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``x``, ``left`` and ``right`` from that of ``y``, ``[N, M]``."""
    grad_projections = _dot_rows(left, gradient)
    grad_x = _add_scaled_rows(gradient @ base, grad_projections, right)
    return grad_x, projections.unsqueeze(2) * gradient.unsqueeze(1), grad_projections.unsqueeze(2) * x.unsqueeze(1)


def low_rank_group_reference(
    x: Tensor, base: Tensor, bias: Tensor, left: Tensor, right: Tensor, shift: Tensor | None
) -> Tensor:
    """Return ``y [N, C, M]`` for inputs ``[N, C, K]``, those of a row with its factors; autograd differentiates it.

    C inputs make a matrix product of what is a matrix-vector product above, so every backend leaves it to the BLAS.
    """
    offsets = bias.expand(x.shape[0], -1) if shift is None else bias + shift
    y = torch.baddbmm(offsets.unsqueeze(1), torch.bmm(x, right.mT), left)
    return torch.addmm(y.flatten(0, 1), x.flatten(0, 1), base.t()).view_as(y)


def _shared_forward(x: Tensor, base: Tensor, bias: Tensor, shift: Tensor | None) -> Tensor:
    return torch.addmm(bias, x, base.t()) if shift is None else torch.addmm(shift, x, base.t()).add_(bias)


def _dot_rows(factors: Tensor, vectors: Tensor) -> Tensor:
    """Return ``factors[n, r] . vectors[n]``, ``[N, R]``.

    A pass per rank reads strided factors in place; a batched product would walk them element by element.
    """
    if factors.numel() <= FEW_ELEMENTS:
        return torch.mul(factors, vectors.unsqueeze(1)).sum(2)
    dots = vectors.new_empty(factors.shape[:2])
    products = torch.empty_like(vectors)
    for r in range(factors.shape[1]):
        torch.sum(torch.mul(factors[:, r], vectors, out=products), 1, out=dots[:, r])
    return dots


def _add_scaled_rows(total: Tensor, coefficients: Tensor, factors: Tensor) -> Tensor:
    """Add ``sum_r coefficients[n, r] * factors[n, r]`` to ``total [N, ...]`` in place."""
    if factors.numel() <= FEW_ELEMENTS:
        return total.add_(torch.mul(factors, coefficients.unsqueeze(2)).sum(1))
    for r in range(factors.shape[1]):
        total.addcmul_(factors[:, r], coefficients[:, r, None])
    return total


@jit
def _apply_low_rank_kernel(
    x_ptr,
    left_ptr,
    right_ptr,
    y_ptr,
    projections_ptr,
    N,
    M,
    K,
    R,
    x_stride,
    left_stride,
    left_rank_stride,
    right_stride,
    right_rank_stride,
    ACCUMULATOR: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    in_n = n < N
    inside = in_n[:, None] & (m < M)[None, :]
    y_tile = y_ptr + n[:, None] * M + m[None, :]
    y = tl.load(y_tile, mask=inside, other=0.0).to(ACCUMULATOR)  # [BLOCK_N, BLOCK_M]
    for r in range(R):
        projection = tl.zeros([BLOCK_N], ACCUMULATOR)
        for start in range(0, K, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            mask = in_n[:, None] & (k < K)[None, :]
            x = tl.load(x_ptr + n[:, None] * x_stride + k[None, :], mask=mask, other=0.0)
            right_tile = right_ptr + n[:, None] * right_stride + r * right_rank_stride + k[None, :]
            right = tl.load(right_tile, mask=mask, other=0.0)
            projection += tl.sum(x.to(ACCUMULATOR) * right.to(ACCUMULATOR), 1)
        left_tile = left_ptr + n[:, None] * left_stride + r * left_rank_stride + m[None, :]
        y += projection[:, None] * tl.load(left_tile, mask=inside, other=0.0).to(ACCUMULATOR)
        if tl.program_id(1) == 0:
            tl.store(projections_ptr + n * R + r, projection.to(projections_ptr.dtype.element_ty), mask=in_n)
    tl.store(y_tile, y.to(y_ptr.dtype.element_ty), mask=inside)


@jit
def _apply_low_rank_backward_kernel(
    gradient_ptr,
    x_ptr,
    left_ptr,
    right_ptr,
    projections_ptr,
    grad_x_ptr,
    grad_left_ptr,
    grad_right_ptr,
    N,
    M,
    K,
    R,
    x_stride,
    left_stride,
    left_rank_stride,
    right_stride,
    right_rank_stride,
    ACCUMULATOR: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    in_n = n < N
    inside = in_n[:, None] & (k < K)[None, :]
    x = tl.load(x_ptr + n[:, None] * x_stride + k[None, :], mask=inside, other=0.0).to(ACCUMULATOR)
    grad_x_tile = grad_x_ptr + n[:, None] * K + k[None, :]
    grad_x = tl.load(grad_x_tile, mask=inside, other=0.0).to(ACCUMULATOR)  # [BLOCK_N, BLOCK_K]
    for r in range(R):
        projection = tl.load(projections_ptr + n * R + r, mask=in_n, other=0.0).to(ACCUMULATOR)
        grad_projection = tl.zeros([BLOCK_N], ACCUMULATOR)
        for start in range(0, M, BLOCK_M):
            m = start + tl.arange(0, BLOCK_M)
            mask = in_n[:, None] & (m < M)[None, :]
            gradient = tl.load(gradient_ptr + n[:, None] * M + m[None, :], mask=mask, other=0.0).to(ACCUMULATOR)
            left_tile = left_ptr + n[:, None] * left_stride + r * left_rank_stride + m[None, :]
            left = tl.load(left_tile, mask=mask, other=0.0).to(ACCUMULATOR)
            grad_projection += tl.sum(gradient * left, 1)
            # the walk over M is the same for every block of K, so the first block writes what is found on the way
            if tl.program_id(1) == 0:
                grad_left = (projection[:, None] * gradient).to(grad_left_ptr.dtype.element_ty)
                tl.store(grad_left_ptr + (n[:, None] * R + r) * M + m[None, :], grad_left, mask=mask)
        right_tile = right_ptr + n[:, None] * right_stride + r * right_rank_stride + k[None, :]
        grad_x += grad_projection[:, None] * tl.load(right_tile, mask=inside, other=0.0).to(ACCUMULATOR)
        grad_right = (grad_projection[:, None] * x).to(grad_right_ptr.dtype.element_ty)
        tl.store(grad_right_ptr + (n[:, None] * R + r) * K + k[None, :], grad_right, mask=inside)
    tl.store(grad_x_tile, grad_x.to(grad_x_ptr.dtype.element_ty), mask=inside)


def _low_rank_forward_triton(
    x: Tensor, base: Tensor, bias: Tensor, left: Tensor, right: Tensor, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    y = _shared_forward(x, base, bias, shift)
    (N, K), M, R = x.shape, base.shape[0], left.shape[1]
    projections = x.new_empty(N, R)
    if N and R:
        blocks = _blocks(M, K, x.dtype)
        with on_device_of(x):
            _apply_low_rank_kernel[-(-N // blocks["BLOCK_N"]), -(-M // blocks["BLOCK_M"])](
                x, left, right, y, projections, N, M, K, R, *_strides(x, left, right), **blocks, enable_fp_fusion=True
            )
    return y, projections


def _low_rank_backward_triton(
    gradient: Tensor, x: Tensor, base: Tensor, left: Tensor, right: Tensor, projections: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (N, K), M, R = x.shape, base.shape[0], left.shape[1]
    grad_x, grad_left, grad_right = gradient @ base, x.new_empty(N, R, M), x.new_empty(N, R, K)
    if N and R:
        blocks = _blocks(M, K, x.dtype)
        outputs = (grad_x, grad_left, grad_right)
        with on_device_of(x):
            _apply_low_rank_backward_kernel[-(-N // blocks["BLOCK_N"]), -(-K // blocks["BLOCK_K"])](
                gradient,
                *(x, left, right, projections),
                *outputs,
                *(N, M, K, R),
                *_strides(x, left, right),
                **blocks,
                enable_fp_fusion=True,
            )
    return grad_x, grad_left, grad_right


def _blocks(M: int, K: int, dtype: torch.dtype) -> dict[str, Any]:
    block_m, block_k = (min(max(1 << (size - 1).bit_length(), 16), 256) for size in (M, K))
    return {
        "ACCUMULATOR": tl.float64 if dtype == torch.float64 else tl.float32,
        "BLOCK_N": 1024 // max(block_m, block_k),
        "BLOCK_M": block_m,
        "BLOCK_K": block_k,
    }


def _strides(x: Tensor, left: Tensor, right: Tensor) -> tuple[int, ...]:
    return x.stride(0), left.stride(0), left.stride(1), right.stride(0), right.stride(1)


_IMPLEMENTATIONS = {
    "reference": (low_rank_forward_reference, low_rank_backward_reference),
    "triton": (_low_rank_forward_triton, _low_rank_backward_triton),
}


class _ApplyLowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: Tensor,
        bias: Tensor,
        left: Tensor,
        right: Tensor,
        shift: Tensor | None,
        backend: ResolvedBackend,
    ) -> Tensor:
        y, projections = _IMPLEMENTATIONS[backend][0](x, base, bias, left, right, shift)
        ctx.save_for_backward(x, base, left, right, projections)
        ctx.backend = backend
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, base, left, right, projections = ctx.saved_tensors
        gradient = gradient.contiguous()
        grad_x, grad_left, grad_right = _IMPLEMENTATIONS[ctx.backend][1](gradient, x, base, left, right, projections)
        needs = ctx.needs_input_grad
        return (
            grad_x,
            gradient.t() @ x if needs[1] else None,
            gradient.sum(0) if needs[2] else None,
            grad_left,
            grad_right,
            gradient if needs[5] else None,
            None,
        )


def apply_low_rank(
    x: Tensor,
    base: Tensor,
    bias: Tensor,
    left: Tensor,
    right: Tensor,
    shift: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Apply a dynamic layer whose every row has its own factors; differentiable (``[N, K]``: once) in every operand.

    Factors may be views into one flat tensor. Take them with ``split``: its gradient is one concatenation, that of
    a slice a full-size tensor of zeros per slice.

    Args:
        x: Inputs, ``[N, K]``, or ``[N, C, K]`` where C inputs share the factors of a row.
        base: Shared weight, ``[M, K]``.
        bias: Shared bias, ``[M]``.
        left: Left factors, rank-major, ``[N, R, M]``; ``R`` may be 0.
        right: Right factors, ``[N, R, K]``.
        shift: Shift of the bias, ``[N, M]``, or None.
        backend: ``"auto"`` runs Triton on CUDA tensors and the reference elsewhere.

    Returns:
        Outputs, ``[N, M]`` or ``[N, C, M]``, with the dtype and device of ``x``.

    Raises:
        ValueError: If the shapes disagree.
    """
    N, K, M, R = x.shape[0], x.shape[-1], base.shape[0], left.shape[1]
    expected = [(M, K), (M,), (N, R, M), (N, R, K), (N, M)]
    operands = [base, bias, left, right] + ([] if shift is None else [shift])
    matches = (operand.shape == shape for operand, shape in zip(operands, expected, strict=False))
    if x.dim() not in (2, 3) or not all(matches):
        raise ValueError(
            "Expected x [N, K] or [N, C, K], base [M, K], bias [M], left [N, R, M], right [N, R, K] and shift [N, M], "
            f"got {', '.join(str(list(operand.shape)) for operand in (x, *operands))}."
        )
    resolved = resolve_backend(backend, x)
    if x.dim() == 3:
        return low_rank_group_reference(x, base, bias, left, right, shift)
    x, left, right = (operand if operand.stride(-1) == 1 else operand.contiguous() for operand in (x, left, right))
    y: Tensor = _ApplyLowRank.apply(x, base, bias, left, right, shift, resolved)  # type: ignore[no-untyped-call]
    return y
