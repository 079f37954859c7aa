"""Time of every operation of ``kernels/`` beside plain PyTorch and ``torch.compile`` of it; a file an operation."""

from benchmarks.kernels.command import main

__all__ = ["main"]
