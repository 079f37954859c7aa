"""Time of apply_low_rank, forward and backward, against an einsum that builds the weight of every row.

Shapes: N rows, D input and output features, R rank.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from benchmarks.kernels.case import Arrays, Case, Tolerance
from kernels import apply_low_rank

FEATURES = (32, 64, 128, 256)
RANKS = (4, 16)
HOST_ROWS = (64, 512)
ACCELERATOR_ROWS = (64, 512, 4096)

_OPERANDS = ("x", "base", "bias", "left", "right", "shift")


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield every width and rank at every number of rows."""
    rows = ACCELERATOR_ROWS if device.type == "cuda" else HOST_ROWS
    for D in (8,) if quick else FEATURES:
        for R in (2,) if quick else RANKS:
            for N in (3, 5) if quick else rows:
                yield case(N, D, R, device)


def case(N: int, D: int, R: int, device: torch.device) -> Case:
    """Apply a square layer with factors of its own a row, and differentiate it in every operand.

    What has to move, forward: every operand, read once; outputs, written once. Backward: the gradient of the outputs
    and every operand but bias and shift, read once; the gradients of all operands, written once.
    """
    shapes = ((N, D), (D, D), (D,), (N, R, D), (N, R, D), (N, D))
    # factors of a size at which outputs of all ranks are alike
    scales = (1.0, D**-0.5, 1.0, R**-0.5, D**-0.5, 1.0)
    operands = [
        (torch.randn(*shape, device=device) * scale).requires_grad_()
        for shape, scale in zip(shapes, scales, strict=True)
    ]
    gradient = torch.randn(N, D, device=device)
    of_all = sum(operand.numel() for operand in operands)
    read_again = of_all - sum(operands[_OPERANDS.index(name)].numel() for name in ("bias", "shift"))
    return Case(
        operation="apply_low_rank",
        name=f"D = {D}, rank {R}",
        batch=N,
        ours=apply_low_rank,
        plain=lambda transform: transform(eager),
        call=lambda function: _forward_and_backward(cast("Callable[..., Tensor]", function), operands, gradient),
        arrays=_arrays,
        bytes_moved=4 * (of_all + N * D + N * D + read_again + of_all),
        trains=True,
    )


def eager(x: Tensor, base: Tensor, bias: Tensor, left: Tensor, right: Tensor, shift: Tensor) -> Tensor:
    """Apply the layer as its definition says, with a weight matrix for every row."""
    weights = base + torch.einsum("nrm,nrk->nmk", left, right)
    return torch.einsum("nmk,nk->nm", weights, x) + bias + shift


def _forward_and_backward(function: Callable[..., Tensor], operands: Sequence[Tensor], gradient: Tensor) -> object:
    y = function(*operands)
    return y, *torch.autograd.grad(y, operands, gradient)


def _arrays(result: object) -> Arrays:
    names = ("y", *(f"the gradient of {name}" for name in _OPERANDS))
    tolerance = Tolerance(relative=1e-5)
    return {name: (array, tolerance) for name, array in zip(names, cast("Sequence[Tensor]", result), strict=True)}
