"""APG (Yan et al., NeurIPS 2022) as a rival: a generated core between two projections that all devices share.

    y = x (U S(z) V)^T + b_n,        U [M, P],  S(z) [P, Q],  V [Q, K],        P = min(r, M),  Q = min(r, K)

The generated weight takes the place of the shared one, as published; there is no residual. Devices keep U and V and are
sent S, at most ``r r`` values a layer. Before its first update a device has the shared classifier.

Shapes: n rows, C candidates, D embedding, M output and K input features of a layer, P by Q core.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from duet.networks.duet_network import GeneratorSizes
from duet.networks.film import SCALE
from duet.networks.update_size import Array
from duet.protocol.layers import LayerTable


@dataclass(frozen=True)
class Core:
    """What is sent for one layer, ``core [n, P, Q]``, and the projections ``left [M, P]`` and ``right [Q, K]``."""

    core: Tensor
    left: Tensor
    right: Tensor

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Compute the layer with the generated weight; the shared one is not used."""
        rows = x.unsqueeze(1) if x.dim() == 2 else x
        inner = torch.bmm(nn.functional.linear(rows, self.right), self.core.mT)
        y = nn.functional.linear(inner, self.left, bias)
        return y.squeeze(1) if x.dim() == 2 else y

    def split(self, sizes: list[int]) -> list["Core"]:
        """Cut n rows into those of ``sizes`` rows each."""
        return [Core(core, self.left, self.right) for core in torch.split(self.core, sizes)]


class ApgGenerator(nn.Module):
    """The projections of every dynamic layer, and one affine map from an embedding to all cores."""

    heads = ("core",)

    def __init__(self, table: LayerTable, sizes: GeneratorSizes) -> None:
        super().__init__()
        self.shapes = [(min(sizes.core_rank, layer.outputs), min(sizes.core_rank, layer.inputs)) for layer in table]
        self.projections = nn.ParameterList()
        for layer, (rows, columns) in zip(table, self.shapes, strict=True):
            self.projections.append(nn.init.orthogonal_(torch.empty(layer.outputs, rows)))
            self.projections.append(nn.init.orthogonal_(torch.empty(columns, layer.inputs)))
        self.decoder = nn.Linear(sizes.embedding_dim, sum(rows * columns for rows, columns in self.shapes))
        nn.init.normal_(self.decoder.weight, std=SCALE)
        # with nothing generated yet the layers are no smaller than other fresh ones
        cores = [nn.init.xavier_uniform_(torch.empty(rows, columns)) for rows, columns in self.shapes]
        with torch.no_grad():
            self.decoder.bias.copy_(torch.cat([core.flatten() for core in cores]))

    @property
    def kept_on_device(self) -> Iterable[nn.Parameter]:
        """What of the generator devices keep: U and V of every layer."""
        return self.projections

    def forward(self, embeddings: Tensor, head: str = "core", *, use_rank: int | None = None) -> list[Core]:
        """Return the core of each layer for embeddings ``[n, D]``."""
        flat = torch.split(self.decoder(embeddings), [rows * columns for rows, columns in self.shapes], dim=1)
        places = range(0, 2 * len(self.shapes), 2)
        return [
            Core(core.view(-1, *shape), self.projections[place], self.projections[place + 1])
            for core, shape, place in zip(flat, self.shapes, places, strict=True)
        ]

    def update_arrays(self) -> list[Array]:
        """Return what an update consists of: a core a layer."""
        return [Array("matrix", rows, columns) for rows, columns in self.shapes]
