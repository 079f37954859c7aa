"""Stable Weight Adapter: parallel decoders merged by a softmax over their self-similarity; folds into one decoder.

For every coordinate d of the embedding, with candidates ``X = C[:, d, :]`` (Figure 2d; docs/decisions tells how the
authors' code differs):

    S = X X^T / sqrt(V),   a = softmax(rowsum(S) / temperature) over the decoders,   mixed[d] = a X

The mixing weights depend on parameters only, so ``fold`` gives the single affine map that is served.

Shapes: E decoders, D embedding, V values decoded.
"""

import math

import torch
from torch import Tensor, nn


class StableWeightAdapter(nn.Module):
    """E parallel affine decoders of V values from an embedding ``[D]``, mixed per coordinate."""

    def __init__(
        self, embedding_dim: int, values: int, *, decoders: int = 3, temperature: float = 1.0, scale: float = 0.01
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.candidates = nn.Parameter(torch.randn(decoders, embedding_dim, values) * scale)
        self.offset = nn.Parameter(torch.zeros(values))

    def mixing_weights(self) -> Tensor:
        """Return the weights of the decoders for each coordinate, ``[E, D]``; they sum to 1 over E."""
        per_coordinate = self.candidates.transpose(0, 1)  # [D, E, V]
        similarity = per_coordinate @ per_coordinate.transpose(1, 2) / math.sqrt(self.candidates.shape[2])
        return torch.softmax(similarity.sum(dim=2) / self.temperature, dim=1).T

    def fold(self) -> tuple[Tensor, Tensor]:
        """Return the equivalent single decoder: weight ``[V, D]`` and bias ``[V]``, differentiable."""
        mixed = (self.mixing_weights().unsqueeze(-1) * self.candidates).sum(dim=0)  # [D, V]
        return mixed.T, self.offset

    def forward(self, embedding: Tensor) -> Tensor:
        """Decode ``[n, D]`` to ``[n, V]`` with all decoders at work; equals the folded map up to rounding."""
        decoded = torch.einsum("nd,ed,edv->nv", embedding, self.mixing_weights(), self.candidates)
        return decoded + self.offset
