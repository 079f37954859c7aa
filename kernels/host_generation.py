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

from kernels.host_slabs import synthesize_into, write_into
from kernels.slab_layout import Plans
from kernels.slabs import check_chosen, cut_slabs

FEW_DEVICES = 4
"""For up to so many our own loop is faster than a BLAS, whatever the size of the weights: it has no way in."""


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
        # a copy, so that the weights of a few devices are read in the order in which they lie
        self._transposed = weight.detach().t().contiguous()
        self._bias, self._base, self._plans = bias.detach(), base.detach(), plans

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
        plans, (D, P) = self._plans, self._transposed.shape
        if embeddings.ndim != 2 or embeddings.shape[1] != D or embeddings.dtype != np.float32:
            raise ValueError(f"Expected float32 embeddings [B, {D}], got {embeddings.dtype} {list(embeddings.shape)}.")
        check_chosen(chosen, len(embeddings), plans)
        B, starts = len(chosen), plans.starts(chosen)
        values = np.empty((B, P), np.float32)
        if B <= FEW_DEVICES:
            given = np.ascontiguousarray(embeddings)
            addresses = (given.ctypes.data, self._transposed.data_ptr(), self._bias.data_ptr())
            synthesize_into(values.ctypes.data, *addresses, devices=B, width=D, count=P)
        else:
            torch.addmm(self._bias, torch.from_numpy(embeddings), self._transposed, out=torch.from_numpy(values))
        slabs, flags = np.empty(starts[-1], np.uint8), np.empty((B, 1), np.uint8)
        write_into(slabs.ctypes.data, flags.ctypes.data, values.ctypes.data, P, self._base.data_ptr(), plans, chosen)
        return cut_slabs(slabs, flags, starts, chosen, plans)
