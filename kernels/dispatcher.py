"""Which implementation of an operation runs: the one place that decides it, and says so.

The rule: a tensor on a CUDA accelerator runs Triton; on a host an operation runs compiled where it has a compiled form
and that was built, and else the reference, which is PyTorch. ``DUET_KERNELS`` replaces the rule for every call that
leaves the choice open; an explicit ``backend=`` argument is above both. What cannot run is refused with the reason,
never replaced silently.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, Literal, TypeAlias, cast

import torch

from kernels.host_slabs import is_built

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = [
    "Backend",
    "ResolvedBackend",
    "interpreting",
    "jit",
    "on_device_of",
    "resolve_backend",
    "tl",
]

Backend: TypeAlias = Literal["auto", "reference", "compiled", "triton"]
ResolvedBackend: TypeAlias = Literal["reference", "compiled", "triton"]

ENVIRONMENT_VARIABLE = "DUET_KERNELS"

_BACKENDS = ("auto", "reference", "compiled", "triton")
_HOW_TO_BUILD = "because no C compiler was found when this package was installed; install one, then install it again"
_log = logging.getLogger(__name__)


def resolve_backend(backend: Backend, tensor: torch.Tensor, *, has_compiled: bool = False) -> ResolvedBackend:
    """Decide what runs an operation on ``tensor``.

    Args:
        backend: ``"auto"`` follows ``DUET_KERNELS`` and then the rule of this module; a name insists.
        tensor: Any operand; its device decides.
        has_compiled: Whether the operation has a compiled form; where it has none, PyTorch's is as good as compiled.

    Returns:
        What runs. The first decision of each kind is logged, once per process.

    Raises:
        ValueError: If ``backend`` or ``DUET_KERNELS`` names no backend.
        RuntimeError: If what is asked for cannot run here.
    """
    environment = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    return _resolve(backend, environment, tensor.device.type, has_compiled)


def jit(function: Callable[..., Any]) -> Any:
    """Make ``function`` a Triton kernel; where Triton is not installed leave it alone, it is never launched there."""
    return function if triton is None else triton.jit(function)


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Make the accelerator that holds ``tensor`` the current one, which is where Triton launches."""
    return cast("AbstractContextManager[object]", torch.cuda.device_of(tensor))  # type: ignore[no-untyped-call]


def interpreting() -> bool:
    """Tell whether Triton kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in {"1", "on", "true", "yes", "y"}


@lru_cache
def _resolve(backend: str, environment: str, device_type: str, has_compiled: bool) -> ResolvedBackend:
    for origin, name in (("backend", backend), (ENVIRONMENT_VARIABLE, environment)):
        if name not in _BACKENDS:
            raise ValueError(f"Expected {origin} to be one of {', '.join(_BACKENDS)}, got {name!r}.")
    if backend != "auto":
        chosen, reason = backend, "the caller asked for it"
    elif environment != "auto":
        chosen, reason = environment, f"{ENVIRONMENT_VARIABLE}={environment}"
    elif device_type == "cuda":
        chosen, reason = "triton", "the tensors are on a CUDA accelerator"
        if triton is None:
            chosen, reason = "reference", "Triton is not installed"
    elif not has_compiled or is_built():
        chosen, reason = "compiled", "the tensors are not on a CUDA accelerator"
    else:
        chosen, reason = "reference", f"the compiled kernels are missing, {_HOW_TO_BUILD}"
    if chosen == "triton":
        _refuse_triton_where_it_cannot_run(device_type, reason)
    if chosen == "compiled":
        if has_compiled:
            _refuse_compiled_where_it_cannot_run(device_type, reason)
        else:
            chosen, reason = "reference", f"{reason}, and PyTorch's own library computes this"
    slower = chosen == "reference" and (device_type == "cuda" or has_compiled) and backend == "auto"
    _log.log(
        logging.WARNING if slower else logging.INFO,
        "kernels run on the %s backend for %s tensors: %s",
        chosen,
        device_type,
        reason,
    )
    return cast("ResolvedBackend", chosen)


def _refuse_compiled_where_it_cannot_run(device_type: str, reason: str) -> None:
    if device_type == "cuda":
        raise RuntimeError(
            f"Expected the compiled backend ({reason}), but the tensors are on {device_type}. "
            "Move them to the host, or choose the triton backend."
        )
    if not is_built():
        raise RuntimeError(f"Expected the compiled backend ({reason}), but it is missing, {_HOW_TO_BUILD}.")


def _refuse_triton_where_it_cannot_run(device_type: str, reason: str) -> None:
    if triton is None:
        raise RuntimeError(
            f"Expected the triton backend ({reason}), but Triton is not installed. "
            "Install triton>=3.6 or choose the reference backend."
        )
    if device_type != "cuda" and not interpreting():
        raise RuntimeError(
            f"Expected the triton backend ({reason}), but the tensors are on {device_type}. "
            "Move them to a CUDA accelerator, choose the reference backend, "
            "or set TRITON_INTERPRET=1 before the kernels are imported."
        )
