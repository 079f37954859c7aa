"""What the two operations that write slabs share: layouts, slabs written by plain PyTorch, and reading them back.

Shapes: B devices in a batch, M output features, K input features, R rank, P flat parameters.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from benchmarks.kernels.case import Arrays, Function, Tolerance, Transform
from deployments.body_layouts import base_places, factor_places, slab_layout
from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.representation import Representation
from kernels import Segment, SlabLayout, Slabs

Written = tuple[Tensor, Tensor]
"""Slabs ``[B, pitch]`` uint8 and flags ``[B]`` of those that are finite."""

Sums = Callable[..., Iterable[tuple[Segment, Tensor]]]
_Rounded = tuple[Tensor, Tensor | None, Tensor]

RANK = 4
HOST_BATCHES = (1, 4, 16, 32, 64, 256)
ACCELERATOR_BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
MOST_ELEMENTS = 2**28
"""Larger batches are left out: the plain form holds several float32 copies of what is written."""

# two implementations of a sum that is rounded; the same numbers as in the test that compares our two backends
_TOLERANCES = {
    torch.float32: Tolerance(absolute=1e-5),
    torch.float16: Tolerance(absolute=2**-7, share=2e-3),
    torch.int8: Tolerance(absolute=1.0, share=2e-3),
}
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}


@dataclass(frozen=True)
class Shape:
    """The dynamic layers of a model.

    Attributes:
        name: What tables call it.
        layers: Output and input features, ``(M, K)``, of each.
    """

    name: str
    layers: tuple[tuple[int, int], ...]

    @property
    def table(self) -> LayerTable:
        """The layer table of a version with these layers."""
        return LayerTable(tuple(DynamicLayer(f"layer{n}", M, K) for n, (M, K) in enumerate(self.layers)))

    def layout(self, representation: str) -> SlabLayout:
        """Lay out a body as the parameter generator does."""
        table = self.table
        return slab_layout(table, Representation.parse(representation), factor_places(table, RANK), base_places(table))


DEMO = Shape("2 layers 32x32", ((32, 32), (32, 32)))
SHAPES = (DEMO, Shape("64x64", ((64, 64),)), Shape("128x128", ((128, 128),)))
ACCELERATOR_SHAPES = (*SHAPES, Shape("512x512", ((512, 512),)))


def sizes(device: torch.device, *, quick: bool) -> list[tuple[Shape, tuple[int, ...]]]:
    """Return the shapes to time on a device, each with its batches."""
    if quick:
        return [(DEMO, (1, 3))]
    shapes, batches = (ACCELERATOR_SHAPES, ACCELERATOR_BATCHES) if device.type == "cuda" else (SHAPES, HOST_BATCHES)
    return [
        (shape, tuple(B for B in batches if B * sum(M * K for M, K in shape.layers) <= MOST_ELEMENTS))
        for shape in shapes
    ]


def plain(layout: SlabLayout, sums: Sums) -> Callable[[Transform], Function]:
    """Return what builds a writer of slabs in plain PyTorch, array by array.

    Args:
        layout: Where the arrays lie.
        sums: Yields every segment with its float32 numbers, ``[B, rows, columns]``, from the operands.

    Returns:
        A builder. Only arithmetic is transformed: torch.compile would compute every number again for each of its bytes.
    """

    def rounded(*operands: Tensor) -> list[_Rounded]:
        return [_round(segment, rows) for segment, rows in sums(*operands)]

    def build(transform: Transform) -> Function:
        compute = cast("Callable[..., list[_Rounded]]", transform(rounded))
        return lambda *operands: _pack(layout, compute(*operands))

    return build


def _round(segment: Segment, rows: Tensor) -> _Rounded:
    if segment.dtype != "int8":
        stored = rows.to(_DTYPES[segment.dtype])
        return stored, None, stored.isfinite().flatten(1).all(1)
    # divided by a tensor: division by a Python number is off by a bit on CUDA
    scales = (rows.abs().amax(-1) / torch.full((), 127.0, device=rows.device)).half().clamp_min_(2.0**-24)
    stored = (rows / scales.float().unsqueeze(-1)).round().clamp(-127, 127).to(torch.int8)
    return stored, scales, scales.isfinite().all(1)


def _pack(layout: SlabLayout, arrays: Sequence[_Rounded]) -> Written:
    B, device = arrays[0][0].shape[0], arrays[0][0].device
    slabs = torch.zeros(B, layout.pitch, dtype=torch.uint8, device=device)
    finite = torch.ones(B, dtype=torch.bool, device=device)
    for segment, (stored, scales, are_finite) in zip(layout.segments, arrays, strict=True):
        finite &= are_finite
        for target, array in ((segment.scale_target, scales), (segment.target, stored)):
            if array is not None:
                flat = array.contiguous().flatten(1).view(torch.uint8)
                slabs[:, target : target + flat.shape[1]] = flat
    return slabs, finite


def reader(layout: SlabLayout, *, share: float | None = None) -> Callable[[object], Arrays]:
    """Return a function that takes slabs of a layout apart, those of ours or of :func:`plain`.

    Args:
        layout: Of all slabs.
        share: How many numbers of an array may differ, where all of them are sums; by default few, and those of arrays
            that are only stored not at all.
    """
    return lambda result: _read(layout, result, share)


def _read(layout: SlabLayout, result: object, share: float | None) -> Arrays:
    if isinstance(result, Slabs):
        data, finite = result.data.view(-1, layout.pitch), result.finite
    else:
        data, finite = cast("Written", result)
    arrays: dict[str, tuple[Tensor, Tolerance]] = {"the flags of finite slabs": (finite, Tolerance())}
    covered = torch.zeros(layout.pitch, dtype=torch.bool, device=data.device)
    for number, segment in enumerate(layout.segments):
        shape: tuple[int, ...] = (len(data), segment.rows, segment.columns)
        places = [(f"array {number}", segment.target, shape, _DTYPES[segment.dtype])]
        if segment.dtype == "int8":
            places.append((f"the scales of array {number}", segment.scale_target, shape[:2], torch.float16))
        for name, target, its_shape, dtype in places:
            stop = target + torch.Size(its_shape[1:]).numel() * dtype.itemsize
            covered[target:stop] = True
            numbers = data[:, target:stop].contiguous().view(dtype).view(its_shape)
            arrays[name] = (numbers, _tolerance(dtype, share, is_sum=not segment.is_direct))
    return arrays | {"the padding": (data[:, ~covered], Tolerance())}


def _tolerance(dtype: torch.dtype, share: float | None, *, is_sum: bool) -> Tolerance:
    if share is not None:
        # a step of float16 is a part of the number
        return replace(_TOLERANCES[dtype], share=share, relative=2**-10 if dtype == torch.float16 else 0.0)
    return _TOLERANCES[dtype] if is_sum else Tolerance()
