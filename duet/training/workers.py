"""Who trains: this process alone, or some that share each batch and add their gradients up.

Every worker draws the same windows and holds the same weights. Of a batch it takes every size-th window; its loss is
the mean over its own positions, so gradients are added in proportion to positions, and their sum is the gradient of
the whole batch. Dropout and sampled negatives are drawn by each worker for itself.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, distributed, nn


class Workers(Protocol):
    """What the training loop needs to know of the others."""

    @property
    def rank(self) -> int:
        """Which of them this is; the first, 0, writes the run folder."""

    @property
    def size(self) -> int:
        """How many there are."""

    def backward(self, network: nn.Module, loss: Tensor | None) -> float:
        """Leave the gradient of the whole batch in the parameters.

        Args:
            network: The same one everywhere.
            loss: This worker's part of the loss; None if the batch has nothing for it.

        Returns:
            The loss of the whole batch.
        """

    def spread(self, measures: Sequence[Callable[[], float]]) -> list[float]:
        """Measure each thing once, by whichever worker, and tell all of them the results."""


class Alone:
    """One process."""

    rank, size = 0, 1

    def backward(self, network: nn.Module, loss: Tensor | None) -> float:
        """Compute the gradient, which is that of the whole batch."""
        assert loss is not None
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def spread(self, measures: Sequence[Callable[[], float]]) -> list[float]:
        """Measure everything here."""
        return [measure() for measure in measures]


ALONE = Alone()


class Together:
    """The workers of the process group that torch has been given."""

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def backward(self, network: nn.Module, loss: Tensor | None) -> float:
        """Add the gradients of all workers, in one message; parameters that nobody used keep none."""
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(network.parameters())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        used = torch.tensor([float(p.grad is not None) for p in parameters])
        own = torch.zeros(1) if loss is None else loss.detach().reshape(1)
        message = torch.cat([*(gradient.flatten() for gradient in gradients), used, own])
        distributed.all_reduce(message)
        *summed, used, own = torch.split(message, [*(p.numel() for p in parameters), len(parameters), 1])
        for parameter, gradient, users in zip(parameters, summed, used.tolist(), strict=True):
            # without a gradient the optimiser leaves a parameter and its moments alone, as in one process
            parameter.grad = gradient.view_as(parameter) if users else None
        return own.item()

    def spread(self, measures: Sequence[Callable[[], float]]) -> list[float]:
        """Measure every size-th thing here, and collect the rest from those who did."""
        values = torch.zeros(len(measures), dtype=torch.float64)
        for place in range(self.rank, len(measures), self.size):
            values[place] = measures[place]()
        distributed.all_reduce(values)
        return values.tolist()
