"""The flat generated parameters of a batch of devices from their embeddings.

    values[b] = weight @ embeddings[b] + bias

Shapes: B batch of devices, D embedding, P flat parameters of all dynamic layers.

One matrix product for all layers. It is left to the BLAS library on every backend: a product of this shape is what
the library is tuned for, and fusing it with what follows costs more registers than the round trip it saves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.dispatcher import Backend, resolve_backend


def synthesize_factors_reference(embeddings: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Define :func:`synthesize_factors` in plain PyTorch."""
    return torch.addmm(bias, embeddings, weight.t())


def synthesize_factors(embeddings: Tensor, weight: Tensor, bias: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Generate the flat parameters of every device in one matrix product; differentiable.

    Args:
        embeddings: Embeddings of the samples, ``[B, D]``.
        weight: Decoder weight, ``[P, D]``; dynamic layers one after the other.
        bias: Decoder bias, ``[P]``.
        backend: Checked like everywhere; both backends are the same BLAS call.

    Returns:
        Flat values, ``[B, P]``, contiguous, with the dtype and device of ``embeddings``.

    Raises:
        ValueError: If the three shapes disagree.
    """
    if embeddings.dim() != 2 or weight.shape != (bias.shape[0], embeddings.shape[1]):
        raise ValueError(
            "Expected embeddings [B, D], weight [P, D] and bias [P], "
            f"got {list(embeddings.shape)}, {list(weight.shape)} and {list(bias.shape)}."
        )
    resolve_backend(backend, embeddings)
    return synthesize_factors_reference(embeddings, weight, bias)
