"""From a configuration to a network: all variants behind the interface that loop and evaluation use."""

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor, nn

from duet.networks.apg import ApgGenerator
from duet.networks.capacity_matched import CapacityMatchedNetwork
from duet.networks.concatenated import ConcatenatedGenerator
from duet.networks.duet_network import SHARED, DuetNetwork, GeneratorSizes, Served, StaticNetwork
from duet.networks.dynamic_layer import Residuals
from duet.networks.film import FilmGenerator
from duet.networks.universal_meta_network import UniversalMetaNetwork
from duet.protocol.layers import LayerTable
from duet.training.config import TrainingConfig

RIVALS: Mapping[str, Callable[[LayerTable, GeneratorSizes], nn.Module]] = {
    "film": FilmGenerator,
    "concatenated": ConcatenatedGenerator,
    "apg": ApgGenerator,
}
"""Generators that take the place of ours, by the name of the model; a new one is a file and a line here."""


class Ranker(Protocol):
    """What can be trained and ranked with; all variants are."""

    meta: UniversalMetaNetwork

    @property
    def served(self) -> tuple[Served, ...]:
        """The parameters it can give a device, the best it has first."""

    def condition(
        self, items: Tensor, positions: Tensor, served: Served = SHARED, *, lag: int = 0
    ) -> tuple[Tensor, Residuals]:
        """Return states ``[n, S]`` and residuals at flat positions ``[n]`` of samples ``[B, T]``."""


def build_network(config: TrainingConfig, item_count: int) -> nn.Module:
    """Return a freshly initialised network (a :class:`Ranker`) of the configured variant."""
    backbone, generator = config.backbone_sizes(item_count), config.generator_sizes()
    if config.model in ("static", "fine-tuned"):
        # what devices fine-tune is a static model
        return StaticNetwork(backbone)
    if config.model == "capacity-matched":
        return CapacityMatchedNetwork(backbone, generator)
    if config.model in RIVALS:
        return DuetNetwork(backbone, generator, RIVALS[config.model])
    return DuetNetwork(backbone, generator)
