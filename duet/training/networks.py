"""From a configuration to a network: the three variants behind the interface that loop and evaluation use."""

from typing import Protocol

from torch import Tensor, nn

from duet.networks.capacity_matched import CapacityMatchedNetwork
from duet.networks.duet_network import SHARED, DuetNetwork, Served, StaticNetwork
from duet.networks.dynamic_layer import Residuals
from duet.networks.universal_meta_network import UniversalMetaNetwork
from duet.training.config import TrainingConfig


class Ranker(Protocol):
    """What can be trained and ranked with; the three variants are."""

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
    if config.model == "static":
        return StaticNetwork(backbone)
    if config.model == "capacity-matched":
        return CapacityMatchedNetwork(backbone, generator)
    return DuetNetwork(backbone, generator)
