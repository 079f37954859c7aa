"""Objectives: cross-entropy over the whole catalogue, and the paper's binary cross-entropy with sampled negatives.

Shapes: B windows, T length, n trained positions, N catalogue items.
"""

import torch
from torch import Tensor, nn

from duet.networks.duet_network import Served
from duet.training.config import OptimisationOptions
from duet.training.networks import Ranker


def objective(
    network: Ranker,
    items: Tensor,
    targets: Tensor,
    served: Served,
    options: OptimisationOptions,
    *,
    item_count: int,
    generator: torch.Generator,
    lag: int = 0,
) -> Tensor:
    """Return the mean loss over the trained positions of a batch.

    Args:
        network: What is trained.
        items: Samples ``[B, T]``.
        targets: Next items ``[B, T]``; 0 is not trained.
        served: Which parameters the devices would hold in this step.
        options: Which loss, how many negatives.
        item_count: Catalogue size N.
        generator: Source of the sampled negatives.
        lag: How many items old the generated parameters are.
    """
    positions = torch.nonzero(targets.flatten()).squeeze(1)
    positives = targets.flatten()[positions]
    states, residuals = network.condition(items, positions, served, lag=lag)
    if options.loss == "softmax":
        return network.meta.catalogue_loss(states, residuals, positives)
    drawn = torch.randint(1, item_count, (len(positives), options.negatives), generator=generator)
    negatives = drawn + (drawn >= positives.unsqueeze(1))  # uniform over all items but the positive
    candidates = torch.cat([positives.unsqueeze(1), negatives], dim=1)
    logits = network.meta.scores(states, residuals, candidates)
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1.0
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)
