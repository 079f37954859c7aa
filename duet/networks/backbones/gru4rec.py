"""GRU4Rec (Hidasi et al., ICLR 2016): a recurrent network over the sample, scored by dot product."""

from torch import Tensor, nn

from duet.networks.backbones.interface import BackboneConfig, Classify
from duet.networks.backbones.item_vectors import dot_product_layers, dot_product_scores, initialise_vectors
from duet.networks.catalogue_cross_entropy import catalogue_cross_entropy
from duet.protocol.layers import DynamicLayer


class GRU4Rec(nn.Module):
    """Static layers of GRU4Rec: item vectors and ``blocks`` recurrent layers."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(config.item_count + 1, config.width, padding_idx=0)
        initialise_vectors(self.items)
        self.dropout = nn.Dropout(config.dropout)
        # torch drops out between layers only, and warns where there is no between
        between = config.dropout if config.blocks > 1 else 0.0
        self.recurrent = nn.GRU(config.width, config.width, config.blocks, batch_first=True, dropout=between)

    @property
    def dynamic_layers(self) -> tuple[DynamicLayer, ...]:
        """Two layers ``width -> width``."""
        return dot_product_layers(self.config.width)

    def embed(self, items: Tensor) -> Tensor:
        """Return item vectors ``[..., width]``; padding is zero."""
        vectors: Tensor = self.items(items)
        return vectors

    def encode(self, items: Tensor) -> Tensor:
        """Return states ``[B, T, width]``; padding stands at the end, where no position has seen it yet."""
        states, _ = self.recurrent(self.dropout(self.embed(items)))
        dropped: Tensor = self.dropout(states)
        return dropped

    def scores(self, states: Tensor, classify: Classify, candidates: Tensor | None = None) -> Tensor:
        """Return logits ``[n, C]``, or ``[n, N]`` without candidates."""
        return dot_product_scores(classify(states), self.items.weight, candidates)

    def catalogue_loss(self, states: Tensor, classify: Classify, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of ``targets [n]`` among the whole catalogue; logits are never kept."""
        return catalogue_cross_entropy(classify(states), self.items.weight[1:], targets - 1)
