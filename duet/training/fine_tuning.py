"""Per-device fine-tuning: every device trains its own copy of a static model on what it has itself seen.

The rival that generation spares devices. A device starts from the static model with an optimiser of its own and takes
whole-batch steps of Adam on its newest interactions, without dropout, with the loss the model was trained with. Many
devices do so side by side by ``torch.func.vmap``, where the backbone allows: their parameters lie in one tensor,
``[U, ...]``, and Adam works element by element, so that each goes the way it would go alone (:func:`fine_tune_one`).

Shapes: U devices, T sample length, S width of a state, N catalogue items, C candidates.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from duet.data.splits import Part, Split
from duet.data.windows import evaluation_samples
from duet.networks.backbones import DotProductBackbone
from duet.networks.duet_network import SHARED, Served
from duet.networks.universal_meta_network import UniversalMetaNetwork
from duet.training.config import OptimisationOptions
from duet.training.objectives import objective, sampled_cross_entropy
from duet.training.unrolled_gru import unroll

Layers = Literal["classifier", "all"]
Stacked = Mapping[str, Tensor]
"""Parameters of U devices by name, ``[U, ...]`` each."""
SEED = 20221117


@dataclass(frozen=True)
class Lessons:
    """What devices learn from: ``inputs`` and the ``targets`` that came next, int64 ``[U, T]``; target 0 is nothing."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def of(self, rows: slice) -> "Lessons":
        """Return those of some devices."""
        return Lessons(self.inputs[rows], self.targets[rows])


@dataclass(frozen=True)
class Recipe:
    """How a device fine-tunes: which layers, at which learning rate, for how many steps."""

    layers: Layers
    learning_rate: float
    steps: int

    def __str__(self) -> str:
        layers = "classifier" if self.layers == "classifier" else "all layers"
        return f"{layers}, {self.steps} step{'s' * (self.steps > 1)} at {self.learning_rate:g}"


def lessons_of(split: Split, users: NDArray[np.int64], part: Part, length: int) -> Lessons:
    """Return the newest T interactions of each user before the held-out one, each with the items before it."""
    items = torch.from_numpy(evaluation_samples(split, users, part, length + 1).astype(np.int64))
    return Lessons(items[:, :-1].contiguous(), items[:, 1:].contiguous())


class FineTuning:
    """A static model that devices fine-tune, many at a time.

    Args:
        meta: The static model; it is not changed.
        options: The loss, and how many negatives where it samples some.
        item_count: Catalogue size N.
    """

    def __init__(self, meta: UniversalMetaNetwork, options: OptimisationOptions, item_count: int) -> None:
        self._device = _Device(copy.deepcopy(meta)).eval().requires_grad_(requires_grad=False)
        unroll(self._device)
        self._options, self._item_count = options, item_count

    def start(self, layers: Layers, devices: int) -> dict[str, Tensor]:
        """Return the parameters that so many devices train, as they are at first."""
        return {
            name: parameter.detach().expand(devices, *parameter.shape).clone()
            for name, parameter in self._device.named_parameters()
            if layers == "all" or name.startswith("meta.classifier.")
        }

    def run(self, lessons: Lessons, recipe: Recipe, stops: Collection[int] = ()) -> Iterator[tuple[int, Stacked]]:
        """Fine-tune devices side by side.

        Args:
            lessons: What they learn from.
            recipe: How.
            stops: Steps before the recipe's last after which the parameters are wanted too.

        Yields:
            Steps done, and the parameters then, which change when the next ones are asked for.
        """
        own = {name: nn.Parameter(value) for name, value in self.start(recipe.layers, len(lessons)).items()}
        values = {name: parameter.detach() for name, parameter in own.items()}
        optimizer = torch.optim.Adam(own.values(), lr=recipe.learning_rate, fused=True)
        data, encoded = lessons.inputs, recipe.layers == "classifier"
        if encoded:
            with torch.no_grad():
                data = self._device.meta.backbone.encode(data)
        for step in range(1, recipe.steps + 1):
            loss = partial(self._loss, drawn=self._draw(lessons, step), encoded=encoded)
            gradients = self._of_all(grad(loss), values, data, lessons.targets)
            for name, parameter in own.items():
                # a batched gradient may lie otherwise in memory, and fused Adam would not notice
                parameter.grad = gradients[name].contiguous()
            optimizer.step()
            if step in stops or step == recipe.steps:
                yield step, values

    def score(self, parameters: Stacked, samples: Tensor, newest: Tensor) -> Tensor:
        """Score the catalogue on devices with parameters of their own.

        Args:
            parameters: What :meth:`run` yielded.
            samples: Samples ``[U, T]``.
            newest: The column of each sample's newest item, int64 ``[U]``.

        Returns:
            Logits ``[U, N]``.
        """

        def of_one(own: Stacked, sample: Tensor, column: Tensor) -> Tensor:
            logits: Tensor = functional_call(self._device, dict(own), (sample,), {"column": column.view(1)})
            return logits[0]

        with torch.no_grad():
            return self._of_all(lambda *own: {"scores": of_one(*own)}, parameters, samples, newest)["scores"]

    def _of_all(
        self, function: Callable[[Stacked, Tensor, Tensor], Stacked], parameters: Stacked, first: Tensor, second: Tensor
    ) -> Stacked:
        """Evaluate a function of one device on all of them, and stack what it returns."""
        if isinstance(self._device.meta.backbone, DotProductBackbone):
            stacked: Stacked = vmap(function)(parameters, first, second)
            return stacked
        # the others look up which items a sample has, a number that differs from device to device
        each = [
            function({name: values[row] for name, values in parameters.items()}, first[row], second[row])
            for row in range(len(first))
        ]
        return {name: torch.stack([one[name] for one in each]) for name in each[0]}

    def _draw(self, lessons: Lessons, step: int) -> Tensor:
        """Draw the negatives of a step, the same for all devices; none for the whole softmax."""
        generator = _draws(step)
        if self._options.loss == "softmax":
            return torch.empty(0, dtype=torch.int64)
        if self._options.loss == "sampled-softmax":
            return 1 + torch.randperm(self._item_count, generator=generator)[: self._options.sampled_negatives]
        shape = (lessons.targets.shape[1], self._options.negatives)
        return torch.randint(1, self._item_count, shape, generator=generator)

    def _loss(self, own: Stacked, data: Tensor, targets: Tensor, drawn: Tensor, encoded: bool) -> Tensor:
        """Return the mean loss of one device over its targets ``[T]``, from its items ``[T]`` or states ``[T, S]``."""

        def scores(candidates: Tensor | None) -> Tensor:
            logits: Tensor = functional_call(
                self._device, dict(own), (data,), {"encoded": encoded, "candidates": candidates}
            )
            return logits

        loss = self._losses(scores, targets.clamp(min=1), drawn)
        trained = targets != 0
        return (loss * trained).sum() / trained.sum().clamp(min=1)

    def _losses(self, scores: Callable[[Tensor | None], Tensor], positives: Tensor, drawn: Tensor) -> Tensor:
        """Return the loss of each position, ``[T]``; see :mod:`duet.training.objectives`."""
        if self._options.loss == "softmax":
            return nn.functional.cross_entropy(scores(None), positives - 1, reduction="none")
        own = positives.unsqueeze(1)
        if self._options.loss == "sampled-softmax":
            return sampled_cross_entropy(
                scores(own), scores(drawn), positives, drawn, item_count=self._item_count, reduction="none"
            )
        logits = scores(torch.cat([own, drawn + (drawn >= own)], dim=1))
        signs = torch.ones(logits.shape[1])
        signs[0] = -1
        return nn.functional.softplus(signs * logits).mean(dim=1)


def fine_tune_one(
    meta: UniversalMetaNetwork, lessons: Lessons, recipe: Recipe, options: OptimisationOptions, item_count: int
) -> UniversalMetaNetwork:
    """Fine-tune a single device as a program on it would: a copy of the model, back-propagation, Adam.

    Args:
        meta: The static model; it is not changed.
        lessons: What the one device learns from.
        recipe: How.
        options: The loss.
        item_count: Catalogue size N.

    Returns:
        The device's own model; the static one where there is nothing to learn from.
    """
    own = copy.deepcopy(meta).eval().requires_grad_(recipe.layers == "all")
    own.classifier.requires_grad_(requires_grad=True)
    if not lessons.targets.any():
        return own
    device = _OneDevice(own, lessons.inputs if recipe.layers == "classifier" else None)
    trained = [parameter for parameter in own.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=recipe.learning_rate, fused=True)
    for step in range(1, recipe.steps + 1):
        optimizer.zero_grad(set_to_none=True)
        loss = objective(
            device, lessons.inputs, lessons.targets, SHARED, options, item_count=item_count, generator=_draws(step)
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return own


class _Device(nn.Module):
    """One device as a function of its parameters."""

    def __init__(self, meta: UniversalMetaNetwork) -> None:
        super().__init__()
        self.meta = meta

    def forward(
        self, data: Tensor, *, encoded: bool = False, candidates: Tensor | None = None, column: Tensor | None = None
    ) -> Tensor:
        """Score candidates ``[T, C]``, or all, from a sample ``[T]`` or its states ``[T, S]``, or from one column."""
        states = data if encoded else self.meta.backbone.encode(data.unsqueeze(0)).squeeze(0)
        return self.meta.scores(states if column is None else states.index_select(0, column), None, candidates)


class _OneDevice:
    """One device as what :func:`objective` trains; its states are made once where the backbone stays as it is."""

    served = (SHARED,)

    def __init__(self, meta: UniversalMetaNetwork, fixed: Tensor | None) -> None:
        self.meta = meta
        with torch.no_grad():
            self._states = None if fixed is None else meta.backbone.encode(fixed)

    def condition(
        self, items: Tensor, positions: Tensor, served: Served = SHARED, *, lag: int = 0
    ) -> tuple[Tensor, None]:
        """Return states ``[n, S]``; the classifier is the device's own."""
        states = self.meta.backbone.encode(items) if self._states is None else self._states
        return states.flatten(0, 1)[positions], None


def _draws(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(SEED + step)
