"""Layouts and operands for the kernel tests: any list of shapes, packed as the package format packs."""

from collections.abc import Sequence

import torch

from kernels import Backend, Plans, Segment, SlabLayout, compose_weights, quantize_factors
from kernels.dispatcher import interpreting
from kernels.host_slabs import is_built

ACCELERATOR = torch.device("cpu" if interpreting() else "cuda")
BACKENDS = ("reference", "triton")
COMPILED = ("compiled",) if is_built() and ACCELERATOR.type == "cpu" else ()
"""Nothing on a machine where the package was installed without a C compiler; the header of the test run says so."""

SLAB_BACKENDS = BACKENDS + COMPILED
"""What writes slabs."""

BYTES = {"float32": 4, "float16": 2, "int8": 1}


class Packer:
    """Hands out byte offsets, each a multiple of 16."""

    def __init__(self) -> None:
        self.end = 0

    def take(self, count: int, dtype: str) -> int:
        offset = -(-self.end // 16) * 16
        self.end = offset + count * BYTES[dtype]
        return offset


def slab_layout(arrays: Sequence[tuple[int, int, str]], *, start: int = 0, spare_bytes: int = 0) -> SlabLayout:
    """Pack arrays ``(rows, columns, dtype)`` that lie one after the other in the flat values from ``start`` on."""
    packer, source, segments = Packer(), start, []
    for rows, columns, dtype in arrays:
        scale_target = packer.take(rows, "float16") if dtype == "int8" else -1
        target = packer.take(rows * columns, dtype)
        segments.append(Segment(rows, columns, target, dtype, scale_target, source=source))
        source += rows * columns
    return SlabLayout(tuple(segments), packer.end + spare_bytes)


def compose_layout(layers: Sequence[tuple[int, int, int, str]], *, trained_rank: int | None = None) -> SlabLayout:
    """Pack a weight and a bias for each of the layers ``(M, K, R, dtype)``.

    The flat values hold ``trained_rank`` rows of factors and a shift a layer, ``R`` rows unless given.
    """
    packer, source, base, segments = Packer(), 0, 0, []
    for M, K, R, dtype in layers:
        held = R if trained_rank is None else trained_rank
        vector = "float32" if dtype == "float32" else "float16"
        scale_target = packer.take(M, "float16") if dtype == "int8" else -1
        target = packer.take(M * K, dtype)
        left, right, shift = source, source + held * M, source + held * (M + K)
        segments += [
            Segment(M, K, target, dtype, scale_target, base=base, left=left, right=right, rank=R),
            Segment(1, M, packer.take(M, vector), vector, source=shift, base=base + M * K),
        ]
        source += held * (M + K) + M
        base += M * K + M
    return SlabLayout(tuple(segments), packer.end)


def written(
    layout: SlabLayout, values: torch.Tensor, base: torch.Tensor | None = None, *, backend: Backend = "reference"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give every device the same layout; return the slabs ``[B, slab_bytes]`` and who is finite ``[B]``."""
    plans, chosen = Plans([layout]), [0] * len(values)
    slabs = (
        quantize_factors(values, plans, chosen, backend=backend)
        if base is None
        else compose_weights(values, base, plans, chosen, backend=backend)
    )
    return slabs.data.view(len(values), layout.pitch)[:, : layout.slab_bytes], slabs.finite


def guarded(*shape: int) -> torch.Tensor:
    """Return normal random numbers in memory of its own: under ``poisoned_memory``, between guard bands."""
    return torch.empty(*shape, device=ACCELERATOR).copy_(torch.randn(*shape))


def array(slabs: torch.Tensor, target: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Read an array ``[B, *shape]`` from the slabs."""
    count = torch.Size(shape).numel() * dtype.itemsize
    return slabs[:, target : target + count].contiguous().view(dtype).view(slabs.shape[0], *shape)


def padding(slabs: torch.Tensor, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Return the bytes of every slab that no array covers."""
    covered = torch.zeros(slabs.shape[1], dtype=torch.bool, device=slabs.device)
    for start, stop in spans:
        covered[start:stop] = True
    return slabs[:, ~covered]
