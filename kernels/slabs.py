"""The slabs of a batch on whatever device wrote them: one buffer, a slab a device, each starting aligned.

Shapes: B batch of devices, P flat parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        flags: Whether all that went into some part of a slab and all that came out is finite, uint8 ``[B, parts]``.
        plans: The layouts.
        chosen: Number of the layout of every device.
    """

    data: Tensor
    starts: Sequence[int]
    flags: Tensor
    plans: Plans
    chosen: Sequence[int]

    @classmethod
    def allocate(cls, plans: Plans, chosen: Sequence[int], device: torch.device, *, flags: int = 1) -> Slabs:
        """Make room for the slabs of a batch with so many flags a device; nobody is found wanting yet."""
        starts = plans.starts(chosen)
        data = torch.empty(starts[-1], dtype=torch.uint8, device=device)
        return cls(data, starts, torch.ones(len(chosen), flags, dtype=torch.uint8, device=device), plans, chosen)

    @property
    def finite(self) -> Tensor:
        """Whose slab is finite, bool ``[B]``; another must not be sent."""
        return self.flags.bool().all(1)

    def bodies(self) -> list[bytes | None]:
        """Copy the slabs to the host, in one transfer, and cut them; None where a slab is not finite."""
        finite = map(all, self.flags.cpu().tolist())
        return cut_slabs(self.data.cpu().numpy().data, finite, self.starts, self.chosen, self.plans)


def cut_slabs(
    whole: memoryview | bytes,
    finite: Iterable[int],
    starts: Sequence[int],
    chosen: Sequence[int],
    plans: Plans,
) -> list[bytes | None]:
    """Cut slabs that lie one after the other into bodies; None where a slab is not finite."""
    layouts = plans.layouts
    return [
        bytes(whole[start : start + layouts[plan].slab_bytes]) if is_finite else None
        for start, plan, is_finite in zip(starts, chosen, finite, strict=False)
    ]


def device_rows(starts: Sequence[int], chosen: Sequence[int], tiles: TileTable) -> list[tuple[int, int, int]]:
    """Return what a launch reads of every device: its slab in units of 16 bytes, its first tile, its tiles."""
    return [(start // SLAB_ALIGNMENT, *tiles.spans[plan]) for start, plan in zip(starts, chosen, strict=False)]


def check_values(values: Tensor, plans: Plans, chosen: Sequence[int]) -> None:
    """Raise ``ValueError`` unless ``values`` is float32 ``[B, P]``, rows contiguous and long enough, a plan a row."""
    shape = list(values.shape)
    if values.dim() != 2 or values.dtype != torch.float32 or shape[1] < plans.required_values:
        raise ValueError(
            f"Expected float32 values [B, P] with P of {plans.required_values} or more, got {values.dtype} {shape}."
        )
    if values.stride(1) != 1 and shape[1] > 1:
        raise ValueError(f"Expected values with contiguous rows, got strides {values.stride()}; copy them first.")
    check_chosen(chosen, shape[0], plans)


def check_chosen(chosen: Sequence[int], devices: int, plans: Plans) -> None:
    """Raise ``ValueError`` unless there is a plan that exists for each of so many devices."""
    if len(chosen) != devices or not 0 <= min(chosen, default=0) <= max(chosen, default=0) < len(plans.layouts):
        raise ValueError(f"Expected {devices} plans among 0 to {len(plans.layouts) - 1}, got {list(chosen)}.")
