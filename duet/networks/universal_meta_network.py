"""Universal Meta Network: backbone and shared classifier, trained on everybody's history; a device's first model."""

from collections.abc import Sequence

from torch import Tensor, nn

from duet.networks.backbones import BackboneConfig, build_backbone
from duet.networks.dynamic_layer import DynamicClassifier, LayerResidual
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

    def scores(
        self, states: Tensor, residuals: Sequence[LayerResidual] | None = None, candidates: Tensor | None = None
    ) -> Tensor:
        """Return logits for states ``[n, S]``: ``[n, C]`` for candidates ``[n, C]``, else ``[n, N]``."""
        return self.backbone.scores(states, lambda x: self.classifier(x, residuals), candidates)

    def catalogue_loss(self, states: Tensor, residuals: Sequence[LayerResidual] | None, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of catalogue indices ``[n]`` (1..N) among the whole catalogue."""
        return self.backbone.catalogue_loss(states, lambda x: self.classifier(x, residuals), targets)
