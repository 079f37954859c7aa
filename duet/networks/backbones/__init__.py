"""Backbones: the static layers of a device model, one file a backbone, behind one interface."""

from collections.abc import Callable, Mapping

from duet.networks.backbones.cnn import CNN
from duet.networks.backbones.din import DIN
from duet.networks.backbones.gru4rec import GRU4Rec
from duet.networks.backbones.interface import Backbone, BackboneConfig, Classify, DotProductBackbone
from duet.networks.backbones.sasrec import SASRec

BACKBONES: Mapping[str, Callable[[BackboneConfig], Backbone]] = {"sasrec": SASRec, "gru4rec": GRU4Rec, "din": DIN}
"""Backbones that rank items, by the name a configuration uses; a new one is a file and a line here."""

CLASSIFIERS: Mapping[str, Callable[[BackboneConfig], Backbone]] = {"cnn": CNN}
"""Backbones that classify images, by name."""


def build_backbone(config: BackboneConfig) -> Backbone:
    """Return a freshly initialised backbone.

    Raises:
        ValueError: If there is none of the name, or the backbone cannot have these sizes.
    """
    known = {**BACKBONES, **CLASSIFIERS}
    if config.name not in known:
        raise ValueError(f"Expected a backbone among {sorted(known)}, got {config.name!r}.")
    return known[config.name](config)


__all__ = [
    "BACKBONES",
    "CLASSIFIERS",
    "CNN",
    "DIN",
    "Backbone",
    "BackboneConfig",
    "Classify",
    "DotProductBackbone",
    "GRU4Rec",
    "SASRec",
    "build_backbone",
]
