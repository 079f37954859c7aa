"""Time of quantize_factors: the factors of a batch in package layout, against storing them array by array."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.kernels.case import Case
from benchmarks.kernels.slabs import RANK, Shape, plain, reader, sizes
from kernels import Plans, Segment, SlabLayout, quantize_factors

DTYPES = ("int8", "float16")


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield every shape and dtype at every batch."""
    for shape, batches in sizes(device, quick=quick):
        for dtype in DTYPES:
            for B in batches:
                yield case(shape, dtype, B, device)


def case(shape: Shape, dtype: str, B: int, device: torch.device) -> Case:
    """Store factors of rank 4 in a dtype.

    What has to move: every value that is stored, read once; every slab, written once.
    """
    layout = shape.layout(f"factors-r{RANK}-{dtype}")
    plans, chosen = Plans([layout]), [0] * B
    values = torch.randn(B, layout.required_values, device=device)
    return Case(
        operation="quantize_factors",
        name=f"{shape.name}, factors {dtype}",
        batch=B,
        ours=lambda values: quantize_factors(values, plans, chosen),
        plain=plain(layout, partial(sums, layout)),
        call=lambda function: function(values),
        arrays=reader(layout),
        bytes_moved=B * (4 * layout.elements + layout.slab_bytes),
    )


def sums(layout: SlabLayout, values: Tensor) -> Iterator[tuple[Segment, Tensor]]:
    """Yield every array of a layout with the values that are stored in it."""
    for segment in layout.segments:
        yield segment, values[:, segment.source : segment.values_end].view(-1, segment.rows, segment.columns)
