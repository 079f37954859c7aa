"""Generation on a host: synthesis and slabs of a batch with nothing in between, for one affine map.

What the two operations do, called with what is already known of them: for a few devices the checks, views and tensors
around the operations cost more than the work.

Shapes: B batch of devices, D embedding, P flat parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.host_slabs import LANES, Generation, SingleSlab, generate_slabs, write_host_slabs
from kernels.slab_layout import Plans
from kernels.slabs import check_chosen, cut_slabs

SMALL_PRODUCT = 1 << 22
"""Multiply-adds from which a product is left to a BLAS that may use several threads; ours uses one."""


class HostGeneration:
    """What :func:`kernels.synthesize_factors` and :func:`kernels.compose_weights` do on the compiled backend."""

    def __init__(self, weight: Tensor, bias: Tensor, base: Tensor, plans: Plans) -> None:
        """Bind the operands.

        Args:
            weight: Decoder weight, ``[P, D]`` float32, on the host.
            bias: Decoder bias, ``[P]``.
            base: Shared weights and biases, flat.
            plans: The layouts that a device may get.

        Raises:
            ValueError: If an operand is not on the host, not float32, or shorter than the plans read.
        """
        given = {"weight": weight, "bias": bias, "base": base}
        for name, tensor in given.items():
            if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or not tensor.is_contiguous():
                raise ValueError(
                    f"Expected a contiguous float32 {name} on the host, got {tensor.dtype} {tensor.device}."
                )
        if weight.shape[0] != len(bias) or len(bias) < plans.required_values or len(base) < plans.required_base:
            raise ValueError(
                f"Expected weight [P, D], bias [P] and base [Pb] with P of {plans.required_values} and Pb of "
                f"{plans.required_base} or more, got {list(weight.shape)}, {list(bias.shape)} and {list(base.shape)}."
            )
        self._weight, self._bias, self._base = weight.detach(), bias.detach(), base.detach()
        self._plans, self._shape = plans, tuple(weight.shape)
        self._packed, filled = _packed(self._weight), _filled(self._bias)
        table = plans.host_table
        self._bound = Generation(
            packed=self._packed.data_ptr(),
            bias=filled.data_ptr(),
            base=self._base.data_ptr(),
            arrays=table.arrays.buffer_info()[0],
            plans=table.plans.buffer_info()[0],
            width=weight.shape[1],
            count=len(filled),
            longest_row=table.longest_row,
        )
        self._pointed_to = self._packed, filled, table  # alive as long as the addresses
        numbers = range(len(plans.layouts)) if weight.numel() <= SMALL_PRODUCT else ()
        self._singles = [SingleSlab(self._bound, plans, number) for number in numbers]

    def generate(self, embeddings: NDArray[np.float32], chosen: Sequence[int]) -> list[bytes | None]:
        """Generate one body per device.

        Args:
            embeddings: ``[B, D]`` float32.
            chosen: Number of the layout of every device, ``B`` of them.

        Returns:
            Bodies in package layout, in order; None where a number is not finite.

        Raises:
            ValueError: If the embeddings have another shape or dtype, or there is not one plan of those given a row.
        """
        plans, (P, D) = self._plans, self._shape
        if embeddings.ndim != 2 or embeddings.shape[1] != D or embeddings.dtype != np.float32:
            raise ValueError(f"Expected float32 embeddings [B, {D}], got {embeddings.dtype} {list(embeddings.shape)}.")
        if len(chosen) == len(embeddings) == 1 and 0 <= chosen[0] < len(self._singles):
            return [self._singles[chosen[0]].generate(embeddings.tobytes())]
        check_chosen(chosen, len(embeddings), plans)
        B, starts = len(chosen), plans.starts(chosen)
        if B * P * D <= SMALL_PRODUCT or torch.get_num_threads() == 1:
            slabs, finite = generate_slabs(self._bound, embeddings.tobytes(), chosen, starts[-1])
            return cut_slabs(slabs, finite, starts, chosen, plans)
        values = torch.addmm(self._bias, torch.from_numpy(embeddings), self._weight.t())
        return write_host_slabs(values, self._base, plans, chosen).bodies()


def _packed(weight: Tensor) -> Tensor:
    """Lay ``[P, D]`` out as ``[P / LANES, D, LANES]``: the library reads it from end to end."""
    P, D = weight.shape
    filled = torch.zeros(-(-P // LANES) * LANES, D)
    filled[:P] = weight
    return filled.view(-1, LANES, D).transpose(1, 2).contiguous()


def _filled(bias: Tensor) -> Tensor:
    filled = torch.zeros(-(-len(bias) // LANES) * LANES)
    filled[: len(bias)] = bias
    return filled
