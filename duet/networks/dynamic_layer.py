"""Dynamic layers: a shared linear layer whose residual is generated for every row of a batch.

    low rank   y = x (W_n + left right)^T + b_n + shift
    full rank  y = x (W_n + residual)^T + b_n + shift
    rivals     see InputShift, film.py and apg.py
    size       (|left right|^2 + |shift|^2) / |W_n|^2, which training may penalise

A row may hold several inputs, ``x [n, C, K]`` (candidates of one device), which share its residual.

Shapes: n rows, C candidates, M output and K input features, R rank. Factors are rank-major: ``left [n, R, M]``,
``right [n, R, K]``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

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


class AppliedForm(Protocol):
    """What a rival generates for one layer, a set a row, and how the layer is computed with it."""

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Map ``[n, K]`` to ``[n, M]``, or ``[n, C, K]`` to ``[n, C, M]``, given the shared weight and bias."""

    def split(self, sizes: list[int]) -> Sequence["AppliedForm"]:
        """Cut n rows into those of ``sizes`` rows each."""


LayerResidual = LowRank | FullRank | InputShift | AppliedForm

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
            x, residual = x + beside(residual.shift, x), None
        if residual is None:
            return nn.functional.linear(x, self.weight, self.bias)
        if not isinstance(residual, FullRank):
            return residual.apply(x, self.weight, self.bias)
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

    def delta_size(self, residuals: Residuals) -> Tensor:
        """Return how large the generated part is beside the shared weights: the mean over rows and layers, a scalar.

        The shared weights count as constant. What only shifts the input of a layer has no size.
        """
        sizes = [
            _squares(residual).mean() / layer.weight.detach().square().sum()  # type: ignore[operator]
            for layer, residual in zip(self.layers, residuals or (), strict=residuals is not None)
            if isinstance(residual, LowRank | FullRank)
        ]
        return torch.stack(sizes).mean() if sizes else self.layers[0].weight.new_zeros(())  # type: ignore[operator]


def _squares(residual: LowRank | FullRank) -> Tensor:
    """Return the sum of the squares of all that is added to a layer's parameters, ``[n]``."""
    if isinstance(residual, FullRank):
        weight = residual.residual.square().sum((1, 2))
    else:
        # |left right|^2 of two factors is the sum of the products of their Gram matrices
        weight = (residual.left @ residual.left.mT * (residual.right @ residual.right.mT)).sum((1, 2))
    return weight + residual.shift.square().sum(1)


def beside(values: Tensor, x: Tensor) -> Tensor:
    """Return ``[n, M]`` as it is combined with ``[n, M]``, or with ``[n, C, M]``."""
    return values if x.dim() == 2 else values.unsqueeze(1)


def split_rows(residuals: Residuals, sizes: list[int]) -> list[Residuals]:
    """Cut the residuals of n rows into those of ``sizes`` rows each (views; their gradient is one concatenation)."""
    if residuals is None:
        return [None] * len(sizes)
    layers = [_split(residual, sizes) for residual in residuals]
    return [list(part) for part in zip(*layers, strict=True)]


def _split(residual: LayerResidual | None, sizes: list[int]) -> Sequence[LayerResidual | None]:
    if residual is None:
        return [None] * len(sizes)
    if not isinstance(residual, LowRank | FullRank | InputShift):
        return residual.split(sizes)
    tensors = (torch.split(tensor, sizes) for tensor in vars(residual).values())
    return [type(residual)(*parts) for parts in zip(*tensors, strict=True)]
