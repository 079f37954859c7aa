"""What a run learns, as the training loop sees it: examples of an epoch, and a value of how good a network is."""

from typing import Protocol

import torch
from torch import Tensor, nn

from duet.data.digits import DigitDevices
from duet.data.interactions import Interactions
from duet.data.splits import Split, global_time, leave_one_out
from duet.data.windows import training_windows
from duet.networks.duet_network import Served
from duet.protocol.errors import DatasetTooSmall, InvalidData
from duet.training.classification import ClassificationTask
from duet.training.config import TrainingConfig
from duet.training.ranking import Questions, ask, rank

Data = Interactions | DigitDevices
"""What a source of data may lead to."""


class Task(Protocol):
    """The data of a run and what is asked of them; the loop knows neither items nor images."""

    metric: str
    """What ``validate`` measures; higher is better."""
    outputs: int
    """What a network scores: items of the catalogue, or classes."""

    def examples(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the windows of an epoch in random order, ``[W, T, ...]``, and their targets ``[W, T]``, 1..N or 0."""

    def validate(self, network: nn.Module, served: Served) -> float:
        """Measure a network whose devices hold what is served, on the validation data."""


class RankingTask:
    """Which item comes next, among the whole catalogue."""

    metric = "ndcg@10"

    def __init__(self, config: TrainingConfig, interactions: Interactions) -> None:
        if interactions.item_count < 2:
            raise DatasetTooSmall(what="items, to tell one from another", count=interactions.item_count, needed=2)
        self.outputs = interactions.item_count
        self._config, self._split = config, split_of(config, interactions)
        self._questions: Questions | None = None

    def examples(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the windows of an epoch and the items that come next, ``[W, T]`` each; see ``training_windows``."""
        windows = training_windows(self._split, self._config.sample_length, seed=self._config.seed, epoch=epoch)
        return torch.from_numpy(windows.inputs).long(), torch.from_numpy(windows.targets).long()

    def validate(self, network: nn.Module, served: Served) -> float:
        """Return the mean NDCG@10 of the validation items in the full catalogue."""
        if self._questions is None:
            users = self._split.evaluated("validation")
            self._questions = ask(self._split, users, "validation", self._config.sample_length)
        return float(rank(network, self._questions, served).ndcg().mean())


def split_of(config: TrainingConfig, interactions: Interactions) -> Split:
    """Return the split a configuration asks for; training, evaluation and publishing all come here."""
    options = config.data
    if options.split == "global-time":
        return global_time(
            interactions,
            validation_share=options.validation_share,
            test_share=options.test_share,
            unseen_share=options.unseen_share,
            seed=config.seed,
        )
    return leave_one_out(interactions, unseen_share=options.unseen_share, seed=config.seed)


def task_of(config: TrainingConfig, data: Data) -> Task:
    """Return what a configuration asks for on these data.

    Raises:
        InvalidData: If its backbone does something else than these data are for.
        DatasetTooSmall: If nothing can be trained or validated.
    """
    if isinstance(data, DigitDevices) != (config.task == "classification"):
        classifies = config.task == "classification"
        raise InvalidData(
            path="data.source",
            line=None,
            expected=f"{'digits' if classifies else 'a log of items'} for the backbone {config.backbone.name}",
            received=data.name,
            remedy="Change data.source, or backbone.name: cnn classifies images, all others rank items.",
        )
    if isinstance(data, DigitDevices):
        return ClassificationTask(config, data)
    return RankingTask(config, data)
