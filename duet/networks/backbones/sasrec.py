"""SASRec (Kang and McAuley, ICDM 2018): causal self-attention over the sample, scored by dot product."""

import math

import torch
from torch import Tensor, nn

from duet.networks.backbones.interface import BackboneConfig, Classify
from duet.networks.backbones.item_vectors import dot_product_layers, dot_product_scores, initialise_vectors
from duet.networks.catalogue_cross_entropy import catalogue_cross_entropy
from duet.protocol.layers import DynamicLayer


class _Block(nn.Module):
    """Pre-norm causal self-attention and a position-wise feed-forward layer."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, 2 * config.width), nn.GELU(), nn.Linear(2 * config.width, config.width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, causal: Tensor) -> Tensor:
        """Map ``[B, T, width]`` to the same shape; ``causal [T, T]`` is 0 where attention is allowed, else -inf."""
        length, width = x.shape[1], x.shape[2]
        query, key, value = self.projection(self.attention_norm(x)).chunk(3, dim=-1)

        def split(y: Tensor) -> Tensor:
            return y.reshape(-1, length, self.heads, width // self.heads).transpose(1, 2)

        weights = split(query) @ split(key).transpose(-2, -1) / math.sqrt(width // self.heads) + causal
        attended = self.dropout(weights.softmax(dim=-1)) @ split(value)  # [B, heads, T, width / heads]
        x = x + self.dropout(self.output(attended.transpose(1, 2).reshape(-1, length, width)))
        y: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return y


class SASRec(nn.Module):
    """Static layers of SASRec: item vectors, positions, attention blocks."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ValueError(
                f"Expected a width divisible by the number of heads, got {config.width} and {config.heads}."
            )
        self.config = config
        self.items = nn.Embedding(config.item_count + 1, config.width, padding_idx=0)
        self.positions = nn.Embedding(config.length, config.width)
        initialise_vectors(self.items)
        initialise_vectors(self.positions)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        mask = torch.full((config.length, config.length), float("-inf")).triu(1)
        self.register_buffer("causal", mask, persistent=False)

    @property
    def dynamic_layers(self) -> tuple[DynamicLayer, ...]:
        """Two layers ``width -> width``."""
        return dot_product_layers(self.config.width)

    def embed(self, items: Tensor) -> Tensor:
        """Return item vectors ``[..., width]``; padding is zero."""
        vectors: Tensor = self.items(items)
        return vectors

    def encode(self, items: Tensor) -> Tensor:
        """Return states ``[B, T, width]``; padding stands at the end, where the causal mask hides it."""
        length = items.shape[1]
        # the exported graph keeps this constant: a device always sends T columns
        x = self.dropout(self.embed(items) * math.sqrt(self.config.width) + self.positions.weight[:length])
        causal = self.causal[:length, :length]  # type: ignore[index]
        for block in self.blocks:
            x = block(x, causal)
        states: Tensor = self.norm(x)
        return states

    def scores(self, states: Tensor, classify: Classify, candidates: Tensor | None = None) -> Tensor:
        """Return logits ``[n, C]``, or ``[n, N]`` without candidates."""
        return dot_product_scores(classify(states), self.items.weight, candidates)

    def catalogue_loss(self, states: Tensor, classify: Classify, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of ``targets [n]`` among the whole catalogue; logits are never kept."""
        return catalogue_cross_entropy(classify(states), self.items.weight[1:], targets - 1)
