"""What every backbone offers: states of a sample, and scores of candidates given the dynamic layers.

Written of items; where a sample is made of images, ``[B, T]`` is ``[B, T, height, width]`` and N counts classes.

Shapes: B samples in a batch, T sample length, S width of a state, n positions, C candidates, N catalogue items.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from duet.networks.dynamic_layer import Between
from duet.protocol.layers import DynamicLayer


class Classify(Protocol):
    """The classifier: all dynamic layers in order, with the parameters of each row."""

    def __call__(self, x: Tensor, between: Between = torch.tanh) -> Tensor:
        """Map ``[n, K]`` to ``[n, M]``, or ``[n, C, K]`` to ``[n, C, M]`` for inputs that share a row's parameters."""


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of a backbone.

    Attributes:
        name: Key of ``BACKBONES``.
        item_count: Catalogue size N, padding not counted.
        length: Longest sample T.
        width: Width of item vectors.
        blocks: Attention blocks or recurrent layers, where it has them.
        heads: Attention heads, where it has heads.
        dropout: Dropout probability in training.
    """

    name: str
    item_count: int
    length: int
    width: int = 32
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.2


class Backbone(Protocol):
    """The static layers of a device model."""

    config: BackboneConfig

    @property
    def dynamic_layers(self) -> tuple[DynamicLayer, ...]:
        """Shapes of the dynamic layers that this backbone's classifier is made of."""

    def embed(self, items: Tensor) -> Tensor:
        """Return item vectors ``[..., width]`` of catalogue indices ``[...]``; index 0 (padding) is zero."""

    def encode(self, items: Tensor) -> Tensor:
        """Return states ``[B, T, S]`` of samples ``[B, T]``: all that scoring needs to know of the items up to t."""

    def scores(self, states: Tensor, classify: Classify, candidates: Tensor | None = None) -> Tensor:
        """Return logits of candidates for states ``[n, S]``.

        Args:
            states: States of n positions, ``[n, S]``.
            classify: The classifier, with each row's own parameters.
            candidates: Catalogue indices, ``[n, C]`` of each row its own or ``[C]`` of all the same; None scores the
                whole catalogue.

        Returns:
            Logits, ``[n, C]``, or ``[n, N]`` in catalogue order without padding.
        """


@runtime_checkable
class DotProductBackbone(Protocol):
    """A backbone whose score is a dot product of the classifier's output and an item vector, or that output itself.

    Its classifier sees no candidate, so that a softmax over everything it scores is affordable.
    """

    def catalogue_loss(self, states: Tensor, classify: Classify, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of ``targets [n]`` (catalogue indices from 1) among all N items."""
