"""Time of synthesize_factors: one product for all arrays of all layers, against one product an array.

Shapes: B devices in a batch, D embedding, M output features, K input features, R rank, P flat parameters.
"""

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.kernels.case import Arrays, Case, Tolerance
from benchmarks.kernels.slabs import RANK, Shape, sizes
from kernels import synthesize_factors

D = 32


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield every shape at every batch."""
    for shape, batches in sizes(device, quick=quick):
        for B in batches:
            yield case(shape, B, device)


def case(shape: Shape, B: int, device: torch.device) -> Case:
    """Generate factors of rank 4 from embeddings of 32 numbers.

    What has to move: embeddings, weight and bias, read once; the values, written once.
    """
    counts = [count for M, K in shape.layers for count in (RANK * M, RANK * K, M)]
    P = sum(counts)
    embeddings, weight, bias = (torch.randn(*its, device=device) for its in ((B, D), (P, D), (P,)))
    return Case(
        operation="synthesize_factors",
        name=f"{shape.name}, D = {D}, P = {P}",
        batch=B,
        ours=synthesize_factors,
        plain=lambda transform: transform(eager(counts)),
        call=lambda function: function(embeddings, weight, bias),
        arrays=_arrays,
        bytes_moved=4 * (B * D + P * D + P + B * P),
    )


def eager(counts: list[int]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the operation in plain PyTorch: a linear map for each of the arrays, put one after the other."""

    def generate(embeddings: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        arrays = zip(torch.split(weight, counts), torch.split(bias, counts), strict=True)
        return torch.cat([linear(embeddings, its_weight, its_bias) for its_weight, its_bias in arrays], 1)

    return generate


def _arrays(result: object) -> Arrays:
    return {"values": (cast("Tensor", result), Tolerance(relative=1e-5))}
