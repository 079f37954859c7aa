"""Universal Meta Network: backbone and shared classifier, trained on everybody's history; a device's first model."""

import torch
from torch import Tensor, nn

from duet.networks.backbones import BackboneConfig, Classify, DotProductBackbone, build_backbone
from duet.networks.dynamic_layer import Between, DynamicClassifier, Residuals
from duet.protocol.layers import LayerTable


class UniversalMetaNetwork(nn.Module):
    """Backbone (static layers) and classifier (dynamic layers with their shared parameters)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config)
        self.classifier = DynamicClassifier(LayerTable(self.backbone.dynamic_layers))

    @property
    def table(self) -> LayerTable:
        """Names and shapes of the dynamic layers."""
        return self.classifier.table

    def scores(self, states: Tensor, residuals: Residuals = None, candidates: Tensor | None = None) -> Tensor:
        """Return logits for states ``[n, S]``: ``[n, C]`` for candidates ``[n, C]`` or ``[C]``, else ``[n, N]``."""
        return self.backbone.scores(states, self._classify(residuals), candidates)

    def catalogue_loss(self, states: Tensor, residuals: Residuals, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of outputs ``[n]`` (1..N) among all: the catalogue, or the classes.

        Raises:
            ValueError: If the classifier of this backbone sees each candidate, so that this loss is not to be had.
        """
        if not isinstance(self.backbone, DotProductBackbone):
            raise ValueError(
                f"Expected a backbone whose classifier sees no candidate, got {self.backbone.config.name!r}: "
                "sample the negatives."
            )
        return self.backbone.catalogue_loss(states, self._classify(residuals), targets)

    def _classify(self, residuals: Residuals) -> Classify:
        def classify(x: Tensor, between: Between = torch.tanh) -> Tensor:
            classified: Tensor = self.classifier(x, residuals, between)
            return classified

        return classify
