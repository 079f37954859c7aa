"""The slabs of a batch on whatever device wrote them: one buffer, a slab a device, each starting aligned.

Shapes: B batch of devices, P flat parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.slab_layout import SLAB_ALIGNMENT, Plans, TileTable


@dataclass(frozen=True)
class Slabs:
    """What one launch wrote.

    Attributes:
        data: All slabs one after the other, uint8 ``[bytes]``; padding is zero.
        starts: First byte of every slab, then the length of ``data``; multiples of 16.
        finite: Whether all that went into a slab and all that came out is finite, bool ``[B]``. A slab that is not must
            not be sent.
        plans: The layouts.
        chosen: Number of the layout of every device.
    """

    data: Tensor
    starts: Sequence[int]
    finite: Tensor
    plans: Plans
    chosen: Sequence[int]

    @classmethod
    def allocate(cls, plans: Plans, chosen: Sequence[int], device: torch.device) -> Slabs:
        """Make room for the slabs of a batch; nobody is found wanting yet."""
        starts = plans.starts(chosen)
        data = torch.empty(starts[-1], dtype=torch.uint8, device=device)
        return cls(data, starts, torch.ones(len(chosen), dtype=torch.bool, device=device), plans, chosen)

    def views(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the buffer as float32, float16 and int8, the three ways a kernel writes it."""
        return self.data.view(torch.float32), self.data.view(torch.float16), self.data.view(torch.int8)

    def devices(self, table: TileTable) -> Tensor:
        """Return what a launch reads of a device, int64 ``[B, 3]``: start in units of 16 bytes, first tile, tiles."""
        starts = (start // SLAB_ALIGNMENT for start in self.starts)
        rows = [(start, *table.spans[plan]) for start, plan in zip(starts, self.chosen, strict=False)]
        return torch.tensor(rows, dtype=torch.int64).to(self.data.device, non_blocking=True)

    def bodies(self) -> list[bytes | None]:
        """Copy the slabs to the host, in one transfer, and cut them; None where a slab is not finite."""
        data, finite = self.data.cpu().numpy(), self.finite.tolist()
        lengths = (self.plans.layouts[plan].slab_bytes for plan in self.chosen)
        return [
            data[start : start + length].tobytes() if is_finite else None
            for start, length, is_finite in zip(self.starts, lengths, finite, strict=False)
        ]


def check_values(values: Tensor, plans: Plans, chosen: Sequence[int]) -> None:
    """Raise ``ValueError`` unless ``values`` is float32 ``[B, P]``, rows contiguous and long enough, a plan a row."""
    shape = list(values.shape)
    if values.dim() != 2 or values.dtype != torch.float32 or shape[1] < plans.required_values:
        raise ValueError(
            f"Expected float32 values [B, P] with P of {plans.required_values} or more, got {values.dtype} {shape}."
        )
    if values.stride(1) != 1 and shape[1] > 1:
        raise ValueError(f"Expected values with contiguous rows, got strides {values.stride()}; copy them first.")
    if len(chosen) != shape[0] or any(not 0 <= plan < len(plans.layouts) for plan in chosen):
        raise ValueError(f"Expected {shape[0]} plans among 0 to {len(plans.layouts) - 1}, got {list(chosen)}.")
