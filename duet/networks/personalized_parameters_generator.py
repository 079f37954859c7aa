"""Personalized Parameters Generator: from an embedding to the residuals of all dynamic layers, one affine map a head.

Heads: ``factors`` gives nested low-rank factors (the first r rows serve rank r), ``full`` the paper's whole residual
matrices. The flat order of a head's values is that of the parameter package: per layer left ``[R, M]``, right
``[R, K]``, shift ``[M]``, or residual ``[M, K]``, shift ``[M]``.

With layer maps there are a linear layer and a layer embedding e in front of the decoders of each dynamic layer, ``h = A
z + e`` (Figure 2). All of it is affine in z, and folds into the same one map.

Shapes: n rows, D embedding, M and K features of a layer, R rank, P flat values of the factors head, F of the full head.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from duet.networks.dynamic_layer import FullRank, LayerResidual, LowRank
from duet.networks.stable_weight_adapter import StableWeightAdapter
from duet.protocol.layers import LayerTable
from kernels.synthesize_factors import synthesize_factors

Head = Literal["factors", "full"]


@dataclass(frozen=True)
class Segment:
    """One array of a head's flat values."""

    layer: int
    role: Literal["left", "right", "residual", "shift"]
    start: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Number of values."""
        return self.rows * self.columns


def head_segments(table: LayerTable, head: Head, rank: int) -> tuple[Segment, ...]:
    """Return the arrays of a head's flat values, in order; ``rank`` is used by the factors head only."""
    segments: list[Segment] = []
    start = 0
    for index, layer in enumerate(table.layers):
        shapes: list[tuple[Literal["left", "right", "residual", "shift"], int, int]] = (
            [("left", rank, layer.outputs), ("right", rank, layer.inputs)]
            if head == "factors"
            else [("residual", layer.outputs, layer.inputs)]
        )
        for role, rows, columns in [*shapes, ("shift", 1, layer.outputs)]:
            segments.append(Segment(index, role, start, rows, columns))
            start += rows * columns
    return tuple(segments)


def split_values(values: Tensor, table: LayerTable, head: Head, *, rank: int, use_rank: int) -> list[LayerResidual]:
    """View flat values ``[n, P]`` or ``[n, F]`` as one residual a layer, truncated to ``use_rank`` (copies nothing)."""
    rows = values.shape[0]
    arrays: dict[tuple[int, str], Tensor] = {}
    segments = head_segments(table, head, rank)
    sizes = [segment.size for segment in segments]
    # split, not slices: its gradient is one concatenation
    for segment, flat in zip(segments, torch.split(values, sizes, dim=1), strict=True):
        arrays[segment.layer, segment.role] = (
            flat if segment.role == "shift" else flat.view(rows, segment.rows, segment.columns)
        )
    if head == "full":
        return [FullRank(arrays[i, "residual"], arrays[i, "shift"]) for i in range(len(table.layers))]
    return [
        LowRank(arrays[i, "left"][:, :use_rank], arrays[i, "right"][:, :use_rank], arrays[i, "shift"])
        for i in range(len(table.layers))
    ]


class PersonalizedParametersGenerator(nn.Module):
    """Decoders of all dynamic layers, each a Stable Weight Adapter, one set a head."""

    def __init__(
        self,
        table: LayerTable,
        *,
        embedding_dim: int,
        rank: int,
        heads: tuple[Head, ...],
        decoders: int = 3,
        layer_maps: bool = False,
    ) -> None:
        super().__init__()
        if not heads or not set(heads) <= {"factors", "full"}:
            raise ValueError(f"Expected heads among 'factors' and 'full', got {heads!r}.")
        self.table, self.rank, self.heads = table, rank, heads
        self.decoders = nn.ModuleDict()
        for head in heads:
            adapters = nn.ModuleList()
            for segment in head_segments(table, head, rank):
                adapter = StableWeightAdapter(embedding_dim, segment.size, decoders=decoders)
                if segment.role == "right":
                    # left starts near zero, so right must not: the product would have no gradient
                    nn.init.normal_(adapter.offset, std=segment.columns**-0.5)
                adapters.append(adapter)
            self.decoders[head] = adapters
        self.layer_maps = nn.ModuleList()
        for _ in table.layers if layer_maps else ():
            layer_map = nn.Linear(embedding_dim, embedding_dim)
            nn.init.eye_(layer_map.weight)
            nn.init.zeros_(layer_map.bias)
            self.layer_maps.append(layer_map)

    def fold(self, head: Head) -> tuple[Tensor, Tensor]:
        """Return the affine map of a head: weight ``[P, D]`` and bias ``[P]`` (``F`` for the full head)."""
        adapters = cast(Iterable[StableWeightAdapter], self.decoders[head])
        folded = [adapter.fold() for adapter in adapters]
        if self.layer_maps:
            maps = [cast(nn.Linear, self.layer_maps[each.layer]) for each in head_segments(self.table, head, self.rank)]
            folded = [
                (weight @ layer.weight, weight @ layer.bias + bias)
                for (weight, bias), layer in zip(folded, maps, strict=True)
            ]
        return torch.cat([weight for weight, _ in folded]), torch.cat([bias for _, bias in folded])

    def forward(
        self, embeddings: Tensor, head: Head = "factors", *, use_rank: int | None = None
    ) -> list[LayerResidual]:
        """Generate the residuals of all layers for embeddings ``[n, D]``; ``use_rank`` truncates the factors."""
        values = synthesize_factors(embeddings, *self.fold(head))
        return split_values(values, self.table, head, rank=self.rank, use_rank=use_rank or self.rank)
