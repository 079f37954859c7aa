"""Time of generation on a host, from embeddings to the bodies of packages: in one call, against step by step."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import torch

from benchmarks.kernels.case import Arrays, Case, Function, Transform
from benchmarks.kernels.quantize_factors import sums
from benchmarks.kernels.slabs import RANK, Shape, Written, plain, reader, sizes
from benchmarks.kernels.synthesize_factors import D, eager
from kernels import HostGeneration, Plans, SlabLayout, resolve_backend

DTYPES = ("int8", "float16")

# sums in two orders differ in their last bits, and one in some hundred then rounds to another float16
_SHARE = 0.02


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Yield every shape and dtype at every batch; none on an accelerator, nor where there was no compiler."""
    if resolve_backend("auto", torch.empty(0, device=device), has_compiled=True) != "compiled":
        return
    for shape, batches in sizes(device, quick=quick):
        for dtype in DTYPES:
            for B in batches:
                yield case(shape, dtype, B)


def case(shape: Shape, dtype: str, B: int) -> Case:
    """Generate factors of rank 4 from embeddings of 32 numbers and store them in a dtype.

    What has to move: embeddings, weight and bias, read once; every slab, written once.
    """
    layout = shape.layout(f"factors-r{RANK}-{dtype}")
    plans, chosen, P = Plans([layout]), [0] * B, layout.required_values
    embeddings, weight, bias = (torch.randn(*its) for its in ((B, D), (P, D), (P,)))
    ours = HostGeneration(weight, bias, torch.empty(0), plans)
    counts = [count for M, K in shape.layers for count in (RANK * M, RANK * K, M)]
    store = plain(layout, partial(sums, layout))

    def build(transform: Transform) -> Function:
        generate, write = transform(eager(counts)), store(transform)

        def steps(_: object) -> list[bytes | None]:
            slabs, finite = cast("Written", write(generate(embeddings, weight, bias)))
            bodies = slabs[:, : layout.slab_bytes].numpy()
            return [body.tobytes() if is_finite else None for body, is_finite in zip(bodies, finite, strict=True)]

        return steps

    return Case(
        operation="host_generation",
        name=f"{shape.name}, D = {D}, factors {dtype}",
        batch=B,
        ours=lambda batch: ours.generate(batch, chosen),
        plain=build,
        call=lambda function: function(embeddings.numpy()),
        arrays=lambda result: _read(layout, cast("Sequence[bytes]", result)),
        bytes_moved=4 * (B * D + P * D + P) + B * layout.slab_bytes,
    )


def _read(layout: SlabLayout, bodies: Sequence[bytes]) -> Arrays:
    slabs = b"".join(body.ljust(layout.pitch, b"\0") for body in bodies)
    written = torch.frombuffer(bytearray(slabs), dtype=torch.uint8).view(-1, layout.pitch)
    return reader(layout, share=_SHARE)((written, torch.ones(len(bodies), dtype=torch.bool)))
