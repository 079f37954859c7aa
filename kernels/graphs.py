"""Generation on an accelerator: synthesis and slabs of a batch as one CUDA graph a bucket of batch sizes.

For small batches the launches cost more than the work, so they are captured once: a batch is padded to the next bucket
and replayed. A large batch goes in parts; the slabs of one are copied to pinned memory while the next is computed.

Shapes: B batch of devices, D embedding, P flat parameters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.compose_weights import launch_slabs, launch_table
from kernels.dispatcher import on_device_of
from kernels.slab_layout import Plans
from kernels.slabs import cut_slabs, device_rows
from kernels.synthesize_factors import synthesize_factors_reference

LARGEST_BUCKET = 512
"""Most devices of one part; larger batches go in parts, so that copies and compute overlap."""

_SLOTS = 2


@dataclass(frozen=True)
class _Slot:
    """Memory and graph of one part in flight: what is read and written, here and on the accelerator."""

    embeddings: Tensor
    devices: Tensor
    slabs: Tensor
    flags: Tensor
    slabs_on_host: Tensor
    flags_on_host: Tensor
    graph: torch.cuda.CUDAGraph
    computed: torch.cuda.Event
    copied: torch.cuda.Event


@dataclass(frozen=True)
class _Part:
    slot: _Slot
    starts: Sequence[int]
    chosen: Sequence[int]


class CapturedGeneration:
    """What :func:`kernels.synthesize_factors` and :func:`kernels.compose_weights` do, replayed for one affine map.

    Captures a bucket when it is first met, or ahead of time with :meth:`warm_up`. Belongs to one thread.
    """

    def __init__(self, weight: Tensor, bias: Tensor, base: Tensor, plans: Plans) -> None:
        """Capture nothing yet.

        Args:
            weight: Decoder weight, ``[P, D]``, on a CUDA accelerator.
            bias: Decoder bias, ``[P]``.
            base: Shared weights and biases, flat.
            plans: The layouts that a device may get.

        Raises:
            ValueError: If the weight is not on a CUDA accelerator.
        """
        if weight.device.type != "cuda":
            raise ValueError(f"Expected weights on a CUDA accelerator, got them on {weight.device}.")
        self._weight, self._bias, self._base, self._plans = weight, bias, base, plans
        self._largest_pitch = max((layout.pitch for layout in plans.layouts), default=0)
        self._table = launch_table(plans, weight.device)
        self._slots: dict[int, deque[_Slot]] = {}
        with on_device_of(weight):
            self._compute, self._copy = (torch.cuda.Stream() for _ in range(2))  # type: ignore[no-untyped-call]

    def warm_up(self, sizes: Sequence[int] = (1, 8, 64, LARGEST_BUCKET)) -> None:
        """Capture the buckets of some batch sizes."""
        for size in sizes:
            self._slots_of(_bucket(size))

    def generate(self, embeddings: NDArray[np.float32], chosen: Sequence[int]) -> list[bytes | None]:
        """Generate the body of every device.

        Args:
            embeddings: ``[B, D]``.
            chosen: Number of the layout of every device, ``B`` of them.

        Returns:
            Bodies in order; None where a number is not finite.
        """
        bodies: list[bytes | None] = []
        pending: deque[_Part] = deque()
        with on_device_of(self._weight):
            for first in range(0, len(chosen), LARGEST_BUCKET):
                part = slice(first, first + LARGEST_BUCKET)
                # a slot is free once its slabs are cut
                if len(pending) == _SLOTS:
                    bodies += self._finish(pending.popleft())
                pending.append(self._begin(embeddings[part], chosen[part]))
            while pending:
                bodies += self._finish(pending.popleft())
        return bodies

    def _begin(self, embeddings: NDArray[np.float32], chosen: Sequence[int]) -> _Part:
        slots = self._slots_of(_bucket(len(chosen)))
        slot = slots[0]
        slots.rotate(-1)
        starts = self._plans.starts(chosen)
        # padding names no tiles, so nothing is written for it
        rows = torch.zeros(slot.devices.shape, dtype=torch.int64)
        rows[: len(chosen)] = torch.tensor(device_rows(starts, chosen, self._table.tiles))
        with torch.cuda.stream(self._compute):
            slot.embeddings[: len(chosen)].copy_(torch.from_numpy(embeddings).pin_memory(), non_blocking=True)
            slot.devices.copy_(rows.pin_memory(), non_blocking=True)
            slot.graph.replay()
            slot.computed.record()
        with torch.cuda.stream(self._copy):
            self._copy.wait_event(slot.computed)
            slot.slabs_on_host[: starts[-1]].copy_(slot.slabs[: starts[-1]], non_blocking=True)
            slot.flags_on_host.copy_(slot.flags, non_blocking=True)
            slot.copied.record()
        return _Part(slot, starts, chosen)

    def _finish(self, part: _Part) -> list[bytes | None]:
        part.slot.copied.synchronize()
        finite = map(all, part.slot.flags_on_host[: len(part.chosen)].tolist())
        return cut_slabs(part.slot.slabs_on_host.numpy().data, finite, part.starts, part.chosen, self._plans)

    def _slots_of(self, bucket: int) -> deque[_Slot]:
        if bucket not in self._slots:
            self._slots[bucket] = deque(self._capture(bucket) for _ in range(_SLOTS))
        return self._slots[bucket]

    def _capture(self, bucket: int) -> _Slot:
        device, most_tiles = self._weight.device, self._table.tiles.tiles_of(range(len(self._plans.layouts)))
        embeddings = torch.zeros(bucket, self._weight.shape[1], device=device)
        devices = torch.zeros(bucket, 3, dtype=torch.int64, device=device)
        slabs = torch.empty(bucket * self._largest_pitch, dtype=torch.uint8, device=device)
        flags = torch.ones(bucket, most_tiles, dtype=torch.uint8, device=device)

        def run() -> None:
            values = synthesize_factors_reference(embeddings, self._weight, self._bias)
            launch_slabs(values, self._base, self._table, devices, slabs, flags)

        with on_device_of(self._weight), torch.inference_mode():
            self._compute.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._compute):
                run()  # compiles, and lets the libraries allocate what they need
            self._compute.synchronize()
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads of the process, which serve another version, may use the accelerator meanwhile
            with torch.cuda.graph(graph, stream=self._compute, capture_error_mode="thread_local"):
                run()
            return _Slot(
                embeddings,
                devices,
                slabs,
                flags,
                torch.empty(slabs.shape, dtype=torch.uint8, pin_memory=True),
                torch.empty(flags.shape, dtype=torch.uint8, pin_memory=True),
                graph,
                *(torch.cuda.Event() for _ in range(2)),  # type: ignore[no-untyped-call]
            )


def _bucket(size: int) -> int:
    """Return the next power of two, the number of devices that a graph is captured for."""
    return min(1 << max(size - 1, 0).bit_length(), LARGEST_BUCKET)
