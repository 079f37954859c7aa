"""Generated values cast or quantised into the slabs of a batch of devices; nothing is added to them.

    slab[b] = stored(values[b])      by the rule of kernels/rounding.py, truncated to the rank of the plan

The grouped launch of :mod:`kernels.compose_weights`, built without base and products: for batches in which every device
composes for itself.

Shapes: B batch of devices, P flat parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kernels.compose_weights import compose_weights_reference, write_slabs
from kernels.dispatcher import Backend, resolve_backend
from kernels.host_slabs import write_host_slabs
from kernels.slab_layout import Plans
from kernels.slabs import Slabs, check_values


def quantize_factors_reference(values: Tensor, plans: Plans, chosen: Sequence[int]) -> Slabs:
    """Define :func:`quantize_factors` without Triton: compose with nothing."""
    return compose_weights_reference(values, values.new_empty(0), plans, chosen)


def quantize_factors(values: Tensor, plans: Plans, chosen: Sequence[int], *, backend: Backend = "auto") -> Slabs:
    """Write the generated values of every device into its slab.

    Args:
        values: Flat values, ``[B, P]`` float32, each row contiguous; nothing flows back through them.
        plans: The layouts that a device may get, all of their segments direct.
        chosen: Number of the layout of every device, ``B`` of them.
        backend: ``"auto"`` follows the rule of :mod:`kernels.dispatcher`.

    Returns:
        The slabs, and who of the devices is finite.

    Raises:
        ValueError: If ``values`` has another shape, dtype or order in memory, is shorter than the plans read, or a plan
            is not direct.
    """
    check_values(values, plans, chosen)
    if not plans.is_direct:
        raise ValueError("Expected plans of direct segments, got one with a base or factors; use compose_weights.")
    # no shared parameter is read, so any pointer does
    return _RUNS[resolve_backend(backend, values, has_compiled=True)](values.detach(), values, plans, chosen)


_RUNS = {"reference": compose_weights_reference, "compiled": write_host_slabs, "triton": write_slabs}
