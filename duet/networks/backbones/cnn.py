"""A small convolutional network: one static convolution, one dynamic one, and the dynamic classifier.

    map       = pool(relu(static convolution of the image))                    [W, 4, 4]
    convolved = relu(dynamic convolution of the map)                           [2 W, 4, 4], a linear layer of each patch
    logits    = dynamic classifier of pool(convolved)                          [N]

A position of a sample is an image, and its state is the map of that image alone: only what the generator makes of a
sample knows the images before. The static convolution serves the generator's sample encoder too, in place of item
vectors.

Shapes: B samples, T images of a sample, n positions, W width, N classes, C candidates.
"""

import torch
from torch import Tensor, nn

from duet.networks.backbones.interface import BackboneConfig, Classify
from duet.protocol.layers import DynamicLayer

SIDE = 8
"""Height and width of an image, in pixels of one channel from 0 to 255."""

_MAP = SIDE // 2
_PATCH = 3


class CNN(nn.Module):
    """Static layers of the network: one convolution, and the vector of an image for the sample encoder."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.convolution = nn.Conv2d(1, config.width, _PATCH, padding=1)
        self.vector = nn.Sequential(
            nn.Linear(config.width * _MAP**2, 8 * config.width), nn.ReLU(), nn.Linear(8 * config.width, config.width)
        )
        self.dropout = nn.Dropout(config.dropout)

    @property
    def dynamic_layers(self) -> tuple[DynamicLayer, ...]:
        """A convolution ``W -> 2 W`` of patches of 3 x 3, and the classifier of what is left of its map."""
        width, classes = self.config.width, self.config.item_count
        return (
            DynamicLayer("convolution", 2 * width, width * _PATCH**2),
            DynamicLayer("classifier", classes, 2 * width * (_MAP // 2) ** 2),
        )

    def embed(self, items: Tensor) -> Tensor:
        """Return vectors ``[..., W]`` of images ``[..., 8, 8]``."""
        vectors: Tensor = self.vector(self._maps(items))
        return vectors

    def encode(self, items: Tensor) -> Tensor:
        """Return states ``[B, T, 16 W]`` of samples ``[B, T, 8, 8]``; a device needs that of the newest image only."""
        return self._maps(items[:, -1:] if torch.compiler.is_exporting() else items)

    def scores(self, states: Tensor, classify: Classify, candidates: Tensor | None = None) -> Tensor:
        """Return the logits of candidates (classes from 1), ``[n, C]``, or of all classes, ``[n, N]``."""
        maps = nn.functional.pad(states.view(-1, self.config.width, _MAP, _MAP), (1, 1, 1, 1))
        shifts = [maps[:, :, i : i + _MAP, j : j + _MAP] for i in range(_PATCH) for j in range(_PATCH)]
        patches = torch.cat(shifts, dim=1).flatten(2).mT  # [n, 16, 9 W]
        logits = classify(patches, self._pooled)
        if candidates is None:
            return logits
        return logits.gather(1, candidates - 1) if candidates.dim() == 2 else logits[:, candidates - 1]

    def catalogue_loss(self, states: Tensor, classify: Classify, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of ``targets [n]`` (classes from 1)."""
        return nn.functional.cross_entropy(self.scores(states, classify), targets - 1)

    def _maps(self, images: Tensor) -> Tensor:
        """Return the flat maps ``[..., 16 W]`` of images ``[..., 8, 8]``."""
        pixels = images.reshape(-1, 1, SIDE, SIDE).to(self.convolution.weight.dtype) / 255
        maps = nn.functional.max_pool2d(torch.relu(self.convolution(pixels)), 2)
        return maps.reshape(*images.shape[:-2], -1)

    def _pooled(self, convolved: Tensor) -> Tensor:
        """Stand between the dynamic layers: outputs of all patches ``[n, 16, 2 W]`` to the classifier's inputs."""
        maps = torch.relu(convolved).mT.reshape(-1, 2 * self.config.width, _MAP, _MAP)
        pooled: Tensor = self.dropout(nn.functional.max_pool2d(maps, 2).flatten(1))
        return pooled
