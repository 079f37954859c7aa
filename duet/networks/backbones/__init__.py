"""Backbones: the static layers of a device model, one file a backbone, behind one interface."""

from collections.abc import Callable, Mapping

from duet.networks.backbones.din import DIN
from duet.networks.backbones.gru4rec import GRU4Rec
from duet.networks.backbones.interface import Backbone, BackboneConfig, Classify, DotProductBackbone
from duet.networks.backbones.sasrec import SASRec

BACKBONES: Mapping[str, Callable[[BackboneConfig], Backbone]] = {"sasrec": SASRec, "gru4rec": GRU4Rec, "din": DIN}
"""Backbones by the name a configuration uses; a new one is a file and a line here."""


def build_backbone(config: BackboneConfig) -> Backbone:
    """Return a freshly initialised backbone.

    Raises:
        ValueError: If ``config.name`` is not a key of :data:`BACKBONES`, or the backbone cannot have these sizes.
    """
    if config.name not in BACKBONES:
        raise ValueError(f"Expected a backbone among {sorted(BACKBONES)}, got {config.name!r}.")
    return BACKBONES[config.name](config)


__all__ = [
    "BACKBONES",
    "DIN",
    "Backbone",
    "BackboneConfig",
    "Classify",
    "DotProductBackbone",
    "GRU4Rec",
    "SASRec",
    "build_backbone",
]
