"""Dynamic layers: a shared linear layer whose residual is generated for every row of a batch.

    low rank   y = x (W_n + left right)^T + b_n + shift
    full rank  y = x (W_n + residual)^T + b_n + shift

Shapes: n rows, M output and K input features, R rank. Factors are rank-major: ``left [n, R, M]``, ``right [n, R, K]``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from duet.protocol.layers import DynamicLayer, LayerTable
from kernels.apply_low_rank import apply_low_rank


@dataclass(frozen=True)
class LowRank:
    """Generated factors of one layer, a set a row: left ``[n, R, M]``, right ``[n, R, K]``, shift ``[n, M]``."""

    left: Tensor
    right: Tensor
    shift: Tensor


@dataclass(frozen=True)
class FullRank:
    """Generated residual of one layer, the paper's own form: residual ``[n, M, K]``, shift ``[n, M]``."""

    residual: Tensor
    shift: Tensor


LayerResidual = LowRank | FullRank


class DynamicLinear(nn.Module):
    """A linear layer with shared weight ``[M, K]`` and bias ``[M]``; what is generated is added to them."""

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layer.outputs, layer.inputs))
        self.bias = nn.Parameter(torch.zeros(layer.outputs))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor, residual: LayerResidual | None = None) -> Tensor:
        """Map ``[n, K]`` to ``[n, M]``, each row with its own residual; without one, with the shared parameters."""
        if residual is None:
            return nn.functional.linear(x, self.weight, self.bias)
        if isinstance(residual, LowRank):
            return apply_low_rank(x, self.weight, self.bias, residual.left, residual.right, residual.shift)
        shared = nn.functional.linear(x, self.weight, self.bias)
        return shared + torch.bmm(residual.residual, x.unsqueeze(-1)).squeeze(-1) + residual.shift


class DynamicClassifier(nn.Module):
    """The dynamic layers in order, tanh between them and none after the last."""

    def __init__(self, table: LayerTable) -> None:
        super().__init__()
        self.table = table
        self.layers = nn.ModuleList(DynamicLinear(layer) for layer in table.layers)

    def forward(self, x: Tensor, residuals: Sequence[LayerResidual] | None = None) -> Tensor:
        """Map ``[n, K]`` to ``[n, M]`` with one residual a layer, or with the shared parameters."""
        for index, layer in enumerate(self.layers):
            x = layer(x if index == 0 else torch.tanh(x), None if residuals is None else residuals[index])
        return x
