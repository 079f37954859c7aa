"""Objectives: cross-entropy over the catalogue, whole or sampled, and the paper's binary one with sampled negatives.

Shapes: B windows, T length, n trained positions, N catalogue items, S shared negatives.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from duet.networks.duet_network import Served
from duet.networks.dynamic_layer import Residuals, split_rows
from duet.training.config import OptimisationOptions
from duet.training.networks import Ranker

NEIGHBOURS = 128
"""Positions that share the negatives of the sampled softmax: few, for what a batch shares it errs in together."""

KEPT_LOGITS = 2**19
"""Logits of a step that keep what their gradients need (2 kB each for DIN); with more, it is computed again."""


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
    delta_penalty: float = 0.0,
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
        delta_penalty: Weight of the size of what is generated (``DynamicClassifier.delta_size``).
    """
    positions = torch.nonzero(targets.flatten()).squeeze(1)
    positives = targets.flatten()[positions]
    states, residuals = network.condition(items, positions, served, lag=lag)
    loss = _task_loss(network, states, residuals, positives, options, item_count=item_count, generator=generator)
    if delta_penalty and residuals is not None:
        loss = loss + delta_penalty * network.meta.classifier.delta_size(residuals)
    return loss


def _task_loss(
    network: Ranker,
    states: Tensor,
    residuals: Residuals,
    positives: Tensor,
    options: OptimisationOptions,
    *,
    item_count: int,
    generator: torch.Generator,
) -> Tensor:
    if options.loss == "softmax":
        return network.meta.catalogue_loss(states, residuals, positives)
    if options.loss == "sampled-softmax":
        count = options.sampled_negatives
        return _sampled_softmax(
            network, states, residuals, positives, count=count, item_count=item_count, generator=generator
        )
    drawn = torch.randint(1, item_count, (len(positives), options.negatives), generator=generator)
    negatives = drawn + (drawn >= positives.unsqueeze(1))  # uniform over all items but the positive
    candidates = torch.cat([positives.unsqueeze(1), negatives], dim=1)
    logits = network.meta.scores(states, residuals, candidates)
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1.0
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def _sampled_softmax(
    network: Ranker,
    states: Tensor,
    residuals: Residuals,
    positives: Tensor,
    *,
    count: int,
    item_count: int,
    generator: torch.Generator,
) -> Tensor:
    def group_loss(states: Tensor, residuals: Residuals, positives: Tensor, negatives: Tensor) -> Tensor:
        own = network.meta.scores(states, residuals, positives.unsqueeze(1))
        others = network.meta.scores(states, residuals, negatives)
        return len(positives) * sampled_cross_entropy(own, others, positives, negatives, item_count=item_count)

    if len(positives) * (1 + count) > KEPT_LOGITS:
        group_loss = partial(checkpoint, group_loss, use_reentrant=False, preserve_rng_state=False)
    groups = torch.split(positives, NEIGHBOURS)
    sizes = [len(group) for group in groups]
    total = positives.new_zeros((), dtype=torch.float32)
    for group in zip(torch.split(states, sizes), split_rows(residuals, sizes), groups, strict=True):
        negatives = 1 + torch.randperm(item_count, generator=generator)[:count]
        total = total + group_loss(*group, negatives)
    return total / len(positives)


def sampled_cross_entropy(
    own: Tensor, others: Tensor, positives: Tensor, negatives: Tensor, *, item_count: int, reduction: str = "mean"
) -> Tensor:
    """Estimate the mean cross-entropy over the catalogue from some negatives (Bengio and Senécal, 2008).

        -log exp(own) / (exp(own) + sum over negatives of exp(other - log q)),    q = drawn / (N - 1)

    ``q`` is the chance of an item other than the positive to be among the negatives (the logQ correction); the positive
    is always there and is not corrected. With all items drawn this is the cross-entropy over the whole catalogue.

    Args:
        own: Logits of the positives, ``[n, 1]``.
        others: Logits of the negatives, ``[n, S]``.
        positives: Catalogue indices, ``[n]``.
        negatives: Catalogue indices that all positions share, uniform without replacement, ``[S]``; a position whose
            positive is among them leaves it out.
        item_count: Catalogue size N.
        reduction: As of ``cross_entropy``; ``none`` gives the loss of each position, ``[n]``.
    """
    hits = negatives == positives.unsqueeze(1)
    drawn = (len(negatives) - hits.sum(1, keepdim=True)).clamp(min=1)
    corrected = others + math.log(max(item_count - 1, 1)) - drawn.log()
    logits = torch.cat([own, corrected.masked_fill(hits, -torch.inf)], dim=1)
    return nn.functional.cross_entropy(logits, torch.zeros_like(positives), reduction=reduction)
