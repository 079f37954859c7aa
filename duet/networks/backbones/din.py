"""DIN (Zhou et al., KDD 2018): every candidate attends to the items of the sample; the classifier sees both.

    weight(h, e)   = w . prelu(V [h, e, h - e, h * e] + v) + c         the paper's activation unit, no softmax
    attended(t, e) = sum over items h up to t of weight(h, e) h
    score(t, e)    = classify([e, attended(t, e)])

A state is the sample's own items up to its position, as catalogue indices: nothing shorter knows what a candidate will
ask for. Their order is not used, as in the paper. Padding needs no mask: its vector is zero, and so is what it adds.

Shapes: B samples, n positions, T sample length, C candidates, N catalogue items, W width, H hidden values,
U different items.
"""

import torch
from torch import Tensor, nn

from duet.networks.backbones.interface import BackboneConfig, Classify
from duet.networks.backbones.item_vectors import initialise_vectors
from duet.protocol.layers import DynamicLayer

PAIRS = 16_384
"""Pairs of position and candidate that are scored at once, which bounds the memory of ranking a whole catalogue."""


class ActivationUnit(nn.Module):
    """How much an item of a sample matters to a candidate: a perceptron of the two vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(4 * width, width)
        self.slope = nn.Parameter(torch.full((width,), 0.25))
        self.output = nn.Linear(width, 1)

    def forward(self, left: Tensor, right: Tensor, *, left_is_history: bool) -> Tensor:
        """Return the weight of every pair of ``left [..., I, W]`` and ``right [..., J, W]``: ``[..., I, J]``.

        The hidden layer is linear in either vector, so each left one makes a matrix of it for the right ones, and no
        vector of a pair is ever built. With ``prelu(x) = slope x + (1 - slope) relu(x)`` only relu sees all hidden
        values.
        """
        history, target, difference, product = self.hidden.weight.chunk(4, dim=1)  # [H, W] each
        of_left, of_right = history + difference, target - difference
        if not left_is_history:
            of_left, of_right = of_right, of_left
        matrix = left.unsqueeze(-3) * product.unsqueeze(1) + of_right.unsqueeze(1)  # [..., H, I, W]
        offset = (of_left @ left.mT + self.hidden.bias.unsqueeze(1)).unsqueeze(-1)  # [..., H, I, 1]
        hidden = matrix.flatten(-3, -2) @ right.mT + offset.flatten(-3, -2)  # [..., H * I, J]
        output = self.output.weight[0]
        straight, rectified = (output * self.slope)[:, None, None], output * (1 - self.slope)
        linear = (straight * matrix).sum(-3) @ right.mT + (straight * offset).sum(-3)  # [..., I, J]
        bent: Tensor = rectified @ torch.relu(hidden).view(*offset.shape[:-2], -1)  # [..., I * J]
        return linear + bent.view(linear.shape) + self.output.bias


class DIN(nn.Module):
    """Static layers of DIN: item vectors and the activation unit."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(config.item_count + 1, config.width, padding_idx=0)
        initialise_vectors(self.items)
        self.activation = ActivationUnit(config.width)
        past = torch.ones(config.length, config.length, dtype=torch.int64).tril()
        self.register_buffer("past", past, persistent=False)

    @property
    def dynamic_layers(self) -> tuple[DynamicLayer, ...]:
        """Three layers from target and attended history to one logit: ``2 W -> 4 W -> 2 W -> 1``."""
        width = self.config.width
        sizes = (2 * width, 4 * width, 2 * width, 1)
        return tuple(DynamicLayer(f"classifier.{i}", sizes[i + 1], sizes[i]) for i in range(3))

    def embed(self, items: Tensor) -> Tensor:
        """Return item vectors ``[..., W]``; padding is zero."""
        vectors: Tensor = self.items(items)
        return vectors

    def encode(self, items: Tensor) -> Tensor:
        """Return states ``[B, T, T]``, int64: the items up to each position, then 0; dropout drops whole items."""
        length = items.shape[1]
        states = items.unsqueeze(1) * self.past[:length, :length]  # type: ignore[index]
        if self.training:
            states = states * (torch.rand(states.shape, device=states.device) >= self.config.dropout)
        return states

    def scores(self, states: Tensor, classify: Classify, candidates: Tensor | None = None) -> Tensor:
        """Return logits ``[n, C]``, or ``[n, N]`` without candidates."""
        history = self.embed(states)  # [n, T, W]
        if candidates is None and torch.compiler.is_exporting():
            # how many different items there are is no static shape, and a device scores few samples at a time
            weights = self.activation(history, self.items.weight, left_is_history=True)  # [n, T, N + 1]
            return self._classified(weights.mT, history, self.items.weight, classify)[:, 1:]
        size = max(1, PAIRS // max(1, len(states)))
        if candidates is not None and candidates.dim() == 2:

            def score(targets: Tensor) -> Tensor:
                weights = self.activation(targets, history, left_is_history=False)  # [n, C, T]
                return self._classified(weights, history, targets, classify)

            return torch.cat([score(self.embed(part)) for part in torch.split(candidates, size, dim=1)], dim=1)
        # a weight depends on the two items alone, and positions share most of theirs
        used, places = torch.unique(states, return_inverse=True)
        vectors = self.embed(used)

        def score_shared(targets: Tensor) -> Tensor:
            weights = self.activation(vectors, targets, left_is_history=True)  # [U, C]
            return self._classified(nn.functional.embedding(places, weights).mT, history, targets, classify)

        shared = self.items.weight[1:] if candidates is None else self.embed(candidates)
        return torch.cat([score_shared(part) for part in torch.split(shared, size)], dim=1)

    @staticmethod
    def _classified(weights: Tensor, history: Tensor, targets: Tensor, classify: Classify) -> Tensor:
        """Return logits ``[n, C]`` from weights ``[n, C, T]``, histories ``[n, T, W]`` and targets ``[(n,) C, W]``."""
        attended = weights @ history  # [n, C, W]
        return classify(torch.cat([targets.expand_as(attended), attended], dim=-1)).squeeze(-1)
