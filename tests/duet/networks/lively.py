"""Small networks whose every parameter matters: fresh ones generate almost nothing, which would hide mistakes."""

from dataclasses import replace

import torch

from duet.networks.apg import ApgGenerator
from duet.networks.backbones import BACKBONES, BackboneConfig
from duet.networks.capacity_matched import CapacityMatchedNetwork
from duet.networks.concatenated import ConcatenatedGenerator
from duet.networks.duet_network import SHARED, DuetNetwork, GeneratorSizes, Served, StaticNetwork
from duet.networks.film import FilmGenerator

ITEMS, LENGTH, RANK = 23, 7, 3
BACKBONE = BackboneConfig("sasrec", item_count=ITEMS, length=LENGTH, width=8, blocks=2, heads=2, dropout=0.2)
SIZES = GeneratorSizes(embedding_dim=5, rank=RANK, heads=("factors", "full"), decoders=3, dropout=0.2, core_rank=6)
SERVED = (SHARED, *(Served("factors", rank) for rank in range(1, RANK + 1)), Served("full"))
NETWORKS = {
    "duet": lambda backbone=BACKBONE: DuetNetwork(backbone, SIZES),
    "static": lambda backbone=BACKBONE: StaticNetwork(backbone),
    "capacity-matched": lambda backbone=BACKBONE: CapacityMatchedNetwork(backbone, SIZES),
    "film": lambda backbone=BACKBONE: DuetNetwork(backbone, SIZES, FilmGenerator),
    "concatenated": lambda backbone=BACKBONE: DuetNetwork(backbone, SIZES, ConcatenatedGenerator),
    "apg": lambda backbone=BACKBONE: DuetNetwork(backbone, SIZES, ApgGenerator),
}
BACKBONE_NAMES = sorted(BACKBONES)


def fresh(name: str = "duet", *, backbone: str = "sasrec", seed: int = 0):
    """Build a network as training begins with it."""
    torch.manual_seed(seed)
    return NETWORKS[name](replace(BACKBONE, name=backbone))


def make(name: str = "duet", *, backbone: str = "sasrec", seed: int = 0):
    """Build a network in evaluation mode and move all its parameters away from their initial values."""
    network = fresh(name, backbone=backbone, seed=seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        network.meta.backbone.items.weight[0] = 0
    return network.eval()


def kinds(name: str, network) -> tuple[Served, ...]:
    """List everything that devices of a network may hold."""
    return SERVED if name == "duet" else tuple(dict.fromkeys((*network.served, SHARED)))


def samples(*lengths: int, seed: int = 1):
    """Draw one sample of each length, padded at the end: int64 ``[B, T]``."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.zeros(len(lengths), LENGTH, dtype=torch.int64)
    for row, length in enumerate(lengths):
        items[row, :length] = torch.randint(1, ITEMS + 1, (length,), generator=generator)
    return items


def all_positions(items):
    """Name every position of samples ``[B, T]``."""
    return torch.arange(items.numel())


def logits(network, items, served=SHARED, positions=None):
    """Score the catalogue at positions, at all of them without: ``[n, N]``."""
    with torch.no_grad():
        states, residuals = network.condition(items, all_positions(items) if positions is None else positions, served)
        return network.meta.scores(states, residuals)
