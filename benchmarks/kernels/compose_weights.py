"""Time of compose_weights: shared weight plus factors in package layout, against composing layer by layer."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.kernels.case import Case
from benchmarks.kernels.slabs import RANK, Shape, plain, reader, sizes
from kernels import Plans, Segment, SlabLayout, compose_weights

DTYPES = ("int8", "float16", "float32")

# of an int8 element, rank 4, counted in sm_90 machine code: docs/decisions/0007
_INT8_INSTRUCTIONS = 29.0


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield every shape and dtype at every batch."""
    for shape, batches in sizes(device, quick=quick):
        for dtype in DTYPES:
            for B in batches:
                yield case(shape, dtype, B, device)


def case(shape: Shape, dtype: str, B: int, device: torch.device) -> Case:
    """Compose and store weights and biases from factors of rank 4 in a dtype.

    What has to move: the factors and shifts of every device and the shared parameters, read once; every slab, written
    once.
    """
    layout = shape.layout(f"composed-r{RANK}-{dtype}")
    plans, chosen = Plans([layout]), [0] * B
    values = torch.randn(B, layout.required_values, device=device)
    base = torch.randn(layout.required_base, device=device)
    return Case(
        operation="compose_weights",
        name=f"{shape.name}, composed {dtype}",
        batch=B,
        ours=lambda values, base: compose_weights(values, base, plans, chosen),
        plain=plain(layout, partial(_sums, layout)),
        call=lambda function: function(values, base),
        arrays=reader(layout),
        bytes_moved=B * (4 * layout.required_values + layout.slab_bytes) + 4 * layout.required_base,
        instructions=_INT8_INSTRUCTIONS * B * layout.elements if dtype == "int8" else None,
    )


def _sums(layout: SlabLayout, values: Tensor, base: Tensor) -> Iterator[tuple[Segment, Tensor]]:
    for segment in layout.segments:
        yield segment, _sum(values, base, segment)


def _sum(values: Tensor, base: Tensor, segment: Segment) -> Tensor:
    """Return the weight ``[B, M, K]`` or the bias ``[B, 1, M]`` of a layer."""
    M, K, R = segment.rows, segment.columns, segment.rank
    shared = base[segment.base : segment.base_end].view(M, K)
    if not R:
        return shared + values[:, segment.source : segment.source + K].unsqueeze(1)
    left = values[:, segment.left : segment.left + R * M].view(-1, R, M)
    right = values[:, segment.right : segment.right + R * K].view(-1, R, K)
    return shared + left.mT @ right
