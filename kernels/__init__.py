"""Fused synthesis of low-rank weights, one operation a file: maths, reference, Triton kernel, dispatcher."""

from kernels.apply_low_rank import apply_low_rank
from kernels.compose_weights import compose_weights
from kernels.dispatcher import Backend, resolve_backend
from kernels.graphs import CapturedGeneration
from kernels.host_generation import HostGeneration
from kernels.quantize_factors import quantize_factors
from kernels.slab_layout import Plans, Segment, SlabLayout
from kernels.slabs import Slabs
from kernels.synthesize_factors import synthesize_factors

__all__ = [
    "Backend",
    "CapturedGeneration",
    "HostGeneration",
    "Plans",
    "Segment",
    "SlabLayout",
    "Slabs",
    "apply_low_rank",
    "compose_weights",
    "quantize_factors",
    "resolve_backend",
    "synthesize_factors",
]
