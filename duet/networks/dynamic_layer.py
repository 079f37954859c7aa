"""Dynamic layers: a shared linear layer whose residual is generated for every row of a batch.

    low rank   y = x (W_n + left right)^T + b_n + shift
    full rank  y = x (W_n + residual)^T + b_n + shift

A row may hold several inputs, ``x [n, C, K]`` (candidates of one device), which share its residual.

Shapes: n rows, C candidates, M output and K input features, R rank. Factors are rank-major: ``left [n, R, M]``,
``right [n, R, K]``.
"""

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class InputShift:
    """What is added to the input of one layer, ``[n, K]``, while its parameters stay the shared ones."""

    shift: Tensor


LayerResidual = LowRank | FullRank | InputShift

Between = Callable[[Tensor], Tensor]
"""What stands between two dynamic layers; it may change the shape of a row, ``[n, C, M]`` to ``[n, K]``."""

Residuals = Sequence[LayerResidual | None] | None
"""What a batch adds to the dynamic layers, one entry a layer; None stands for the shared parameters."""


class DynamicLinear(nn.Module):
    """A linear layer with shared weight ``[M, K]`` and bias ``[M]``; what is generated is added to them."""

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layer.outputs, layer.inputs))
        self.bias = nn.Parameter(torch.zeros(layer.outputs))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor, residual: LayerResidual | None = None) -> Tensor:
        """Map ``[n, K]`` to ``[n, M]``, or ``[n, C, K]`` to ``[n, C, M]``, each row with its own residual.

        Without a residual the parameters are the shared ones.
        """
        if isinstance(residual, LowRank):
            return apply_low_rank(x, self.weight, self.bias, residual.left, residual.right, residual.shift)
        if isinstance(residual, InputShift):
            x = x + (residual.shift if x.dim() == 2 else residual.shift.unsqueeze(1))
        if not isinstance(residual, FullRank):
            return nn.functional.linear(x, self.weight, self.bias)
        if x.dim() == 3:
            y = torch.baddbmm((self.bias + residual.shift).unsqueeze(1), x, residual.residual.mT)
            return torch.addmm(y.flatten(0, 1), x.flatten(0, 1), self.weight.t()).view_as(y)
        shared = nn.functional.linear(x, self.weight, self.bias)
        return shared + torch.bmm(residual.residual, x.unsqueeze(-1)).squeeze(-1) + residual.shift


class DynamicClassifier(nn.Module):
    """The dynamic layers in order, tanh or what the backbone asks for between them and nothing after the last."""

    def __init__(self, table: LayerTable) -> None:
        super().__init__()
        self.table = table
        self.layers = nn.ModuleList(DynamicLinear(layer) for layer in table.layers)

    def forward(self, x: Tensor, residuals: Residuals = None, between: Between = torch.tanh) -> Tensor:
        """Map ``[n, K]`` to ``[n, M]``, or ``[n, C, K]`` to ``[n, C, M]``, with the residual of each layer."""
        for index, layer in enumerate(self.layers):
            x = layer(x if index == 0 else between(x), None if residuals is None else residuals[index])
        return x


def split_rows(residuals: Residuals, sizes: list[int]) -> list[Residuals]:
    """Cut the residuals of n rows into those of ``sizes`` rows each (views; their gradient is one concatenation)."""
    if residuals is None:
        return [None] * len(sizes)
    layers = [_split(residual, sizes) for residual in residuals]
    return [list(part) for part in zip(*layers, strict=True)]


def _split(residual: LayerResidual | None, sizes: list[int]) -> Sequence[LayerResidual | None]:
    if residual is None:
        return [None] * len(sizes)
    tensors = (torch.split(tensor, sizes) for tensor in vars(residual).values())
    return [type(residual)(*parts) for parts in zip(*tensors, strict=True)]
