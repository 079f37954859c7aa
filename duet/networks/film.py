"""FiLM (Perez et al., AAAI 2018), a rival of generated weights: the embedding scales and shifts what a layer gives.

    y = (1 + scale(z)) (x W_n^T + b_n) + shift(z)

A device is sent one scale and one shift an output, ``2 M`` values a layer. It is a special case of generated weights
(row *m* of the weight times ``1 + scale[m]``), so that a device could also be sent the composed ones.

Shapes: n rows, C candidates, D embedding, M output and K input features of a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from duet.networks.duet_network import GeneratorSizes
from duet.networks.dynamic_layer import beside
from duet.networks.update_size import Array
from duet.protocol.layers import LayerTable

SCALE = 0.01
"""Standard deviation of a rival's first weights, that of the Stable Weight Adapter: devices start almost alike."""


@dataclass(frozen=True)
class ScaleShift:
    """What is sent for one layer, ``[n, M]`` each; without a scale the layer is shifted only."""

    shift: Tensor
    scale: Tensor | None = None

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Compute the shared layer, scaled and shifted."""
        y = nn.functional.linear(x, weight, bias)
        if self.scale is not None:
            y = y + y * beside(self.scale, y)
        return y + beside(self.shift, y)

    def split(self, sizes: list[int]) -> list["ScaleShift"]:
        """Cut n rows into those of ``sizes`` rows each."""
        shifts = torch.split(self.shift, sizes)
        scales = [None] * len(sizes) if self.scale is None else torch.split(self.scale, sizes)
        return [ScaleShift(shift, scale) for shift, scale in zip(shifts, scales, strict=True)]


class FilmGenerator(nn.Module):
    """One affine map from an embedding to scale and shift of every dynamic layer."""

    heads = ("scale-shift",)

    def __init__(self, table: LayerTable, sizes: GeneratorSizes) -> None:
        super().__init__()
        self.outputs = [layer.outputs for layer in table]
        self.decoder = nn.Linear(sizes.embedding_dim, 2 * sum(self.outputs))
        nn.init.normal_(self.decoder.weight, std=SCALE)
        nn.init.zeros_(self.decoder.bias)

    def forward(
        self, embeddings: Tensor, head: str = "scale-shift", *, use_rank: int | None = None
    ) -> Sequence[ScaleShift]:
        """Return scale and shift of each layer for embeddings ``[n, D]``."""
        scales, shifts = self.decoder(embeddings).chunk(2, dim=1)
        pairs = zip(torch.split(scales, self.outputs, dim=1), torch.split(shifts, self.outputs, dim=1), strict=True)
        return [ScaleShift(shift, scale) for scale, shift in pairs]

    def update_arrays(self) -> list[Array]:
        """Return what an update consists of: a scale and a shift a layer."""
        return [Array(kind, 1, outputs) for outputs in self.outputs for kind in ("matrix", "vector")]
