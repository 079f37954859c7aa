"""Backbones: the static layers of a device model, one file a backbone, behind one interface."""

from duet.networks.backbones.interface import Backbone, BackboneConfig, Classify
from duet.networks.backbones.sasrec import SASRec

BACKBONES: dict[str, type[SASRec]] = {"sasrec": SASRec}
"""Backbones by the name a configuration uses; a new one is a file and a line here."""


def build_backbone(config: BackboneConfig) -> SASRec:
    """Return a freshly initialised backbone.

    Raises:
        ValueError: If ``config.name`` is not a key of :data:`BACKBONES`.
    """
    if config.name not in BACKBONES:
        raise ValueError(f"Expected a backbone among {sorted(BACKBONES)}, got {config.name!r}.")
    return BACKBONES[config.name](config)


__all__ = ["BACKBONES", "Backbone", "BackboneConfig", "Classify", "SASRec", "build_backbone"]
