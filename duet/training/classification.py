"""Classification on devices: which class a picture is of, with parameters made of the device's latest pictures.

A device is asked about its last 16 pictures, Q of them, with the parameters that were made of the T before them. It
has labelled none of these.

Shapes: U devices, T sample length, Q pictures asked about, D embedding, N classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from duet.data.digits import CLASSES, PICTURES, DigitDevices, Pictures
from duet.networks.duet_network import DuetNetwork, Served
from duet.protocol.errors import DatasetTooSmall
from duet.training.config import TrainingConfig

ASKED = 16
BATCH = 64


@dataclass(frozen=True)
class PictureQuestions:
    """What devices know at a moment, and what they meet next.

    Attributes:
        samples: The latest pictures of each device, uint8 ``[U, T, 8, 8]``.
        following: The pictures to classify, uint8 ``[U, Q, 8, 8]``.
        labels: Their classes, int64 ``[U, Q]``.
    """

    samples: NDArray[np.uint8]
    following: NDArray[np.uint8]
    labels: NDArray[np.int64]


def ask_pictures(pictures: Pictures, length: int, *, lag: int = 0) -> PictureQuestions:
    """Prepare the questions of all devices of a part.

    Args:
        pictures: What the devices saw.
        length: Sample length T.
        lag: How many pictures before the first asked one the sample ends.

    Raises:
        DatasetTooSmall: If a device has fewer pictures than that.
    """
    end = PICTURES - ASKED - lag
    if end < length:
        raise DatasetTooSmall(what="pictures of a device before those it is asked about", count=end, needed=length)
    following = slice(PICTURES - ASKED, None)
    return PictureQuestions(
        pictures.images[:, end - length : end], pictures.images[:, following], pictures.labels[:, following]
    )


class ClassificationTask:
    """Which class each picture of a device is of."""

    metric, outputs = "accuracy", CLASSES

    def __init__(self, config: TrainingConfig, data: DigitDevices) -> None:
        self._config, self._training = config, data.training
        self._questions = ask_pictures(data.validation, config.backbone.length)

    def examples(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return windows uint8 ``[W, T, 8, 8]`` from anywhere in the devices' lives, and their classes from 1."""
        length = self._config.backbone.length
        random = np.random.default_rng([self._config.seed, epoch])
        owners = random.permutation(np.repeat(np.arange(len(self._training.labels)), PICTURES // length))
        starts = random.integers(0, PICTURES - length + 1, len(owners))
        at = owners[:, None], starts[:, None] + np.arange(length)
        return torch.from_numpy(self._training.images[at]), torch.from_numpy(self._training.labels[at] + 1)

    def validate(self, network: nn.Module, served: Served) -> float:
        """Return the accuracy on unseen devices, each counted once."""
        return float(right_answers(network, self._questions, served).mean())


def right_answers(
    network: nn.Module, questions: PictureQuestions, served: Served, *, embeddings: Tensor | None = None
) -> NDArray[np.bool_]:
    """Tell which pictures are classified rightly on devices that hold what is served, ``[U, Q]``.

    Args:
        network: The network.
        questions: The questions.
        served: Which parameters the devices hold.
        embeddings: What the parameters are generated from, ``[U, D]``; by default those of the samples.
    """
    was_training = network.training
    network.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(questions.labels), BATCH):
            rows = slice(start, start + BATCH)
            own = None if embeddings is None else embeddings[rows]
            logits = _logits(network, questions.samples[rows], questions.following[rows], served, own)
            parts.append(logits.argmax(-1).numpy() == questions.labels[rows])
    network.train(was_training)
    return np.concatenate(parts)


def sample_embeddings(network: DuetNetwork, samples: NDArray[np.uint8]) -> Tensor:
    """Return the embedding of each sample ``[U, T, 8, 8]``: ``[U, D]``."""
    with torch.inference_mode():
        batches = torch.split(torch.from_numpy(samples), BATCH)
        return torch.cat([network.embeddings(batch)[:, -1] for batch in batches])


def _logits(
    network: nn.Module,
    samples: NDArray[np.uint8],
    following: NDArray[np.uint8],
    served: Served,
    embeddings: Tensor | None,
) -> Tensor:
    """Return logits ``[u, Q, N]``."""
    count, asked = following.shape[:2]
    pictures = torch.from_numpy(following)
    if isinstance(network, DuetNetwork):
        states = network.meta.backbone.encode(pictures).flatten(0, 1)
        if embeddings is None:
            embeddings = network.embeddings(torch.from_numpy(samples))[:, -1]
        residuals = network.residuals(embeddings.repeat_interleave(asked, dim=0), served)
        return network.meta.scores(states, residuals).view(count, asked, -1)
    # a baseline that knows its past knows the picture too: it runs on the device
    windows = torch.cat([torch.from_numpy(samples).repeat_interleave(asked, 0), pictures.flatten(0, 1)[:, None]], 1)
    newest = torch.arange(len(windows)) * windows.shape[1] + windows.shape[1] - 1
    conditioned = network.condition(windows, newest, served)  # type: ignore[operator]
    logits: Tensor = network.meta.scores(*conditioned)  # type: ignore[operator,union-attr]
    return logits.view(count, asked, -1)
