"""The embedding beside the input of the first dynamic layer: the cheapest rival of generated weights.

    y = [x, z] [W_0, V]^T + b_0 = x W_0^T + (V z + b_0)

All that an update changes is a bias: the cloud sends ``V z``, ``M`` values, and the other layers stay shared.

Shapes: n rows, D embedding, M output features of the first layer.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from duet.networks.duet_network import GeneratorSizes
from duet.networks.film import SCALE, ScaleShift
from duet.networks.update_size import Array
from duet.protocol.layers import LayerTable


class ConcatenatedGenerator(nn.Module):
    """The part of the first layer that sees the embedding."""

    heads = ("shift",)

    def __init__(self, table: LayerTable, sizes: GeneratorSizes) -> None:
        super().__init__()
        self.layers = len(table.layers)
        self.decoder = nn.Linear(sizes.embedding_dim, table.layers[0].outputs, bias=False)
        nn.init.normal_(self.decoder.weight, std=SCALE)

    def forward(
        self, embeddings: Tensor, head: str = "shift", *, use_rank: int | None = None
    ) -> Sequence[ScaleShift | None]:
        """Return the shift of the first layer for embeddings ``[n, D]``, and nothing for the others."""
        return [ScaleShift(self.decoder(embeddings)), *[None] * (self.layers - 1)]

    def update_arrays(self) -> list[Array]:
        """Return what an update consists of: one shift."""
        return [Array("vector", 1, self.decoder.out_features)]
