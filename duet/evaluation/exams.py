"""What devices are asked when a version is published: one class a task, and nothing else in publishing knows tasks.

Shapes: U devices, T sample length, N outputs: catalogue items, or classes. A device model may look at fewer than T.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from duet.data.digits import CLASSES, PICTURES, DigitDevices
from duet.data.splits import Split
from duet.data.windows import last_positions
from duet.device.runtime import DeviceModel
from duet.evaluation.model_card import CardText
from duet.protocol.canonical_json import Json
from duet.protocol.signature import SequenceSignature, Signature, Vocabulary
from duet.protocol.tensor_signature import TensorSignature
from duet.training.classification import ASKED, PictureQuestions, ask_pictures
from duet.training.config import TrainingConfig
from duet.training.ranking import Questions, ask, ranks_of_scores
from duet.training.tasks import Data, split_of

MAX_SAMPLE_ITEMS = 1000


class Exam(Protocol):
    """Devices of the validation part: what each sends, and how well it does with whatever parameters are in place."""

    task: str
    """What the manifest calls the task."""
    metric: str
    signature: Signature
    """Of what a device sends."""
    device_signature: Signature
    """Of what its model looks at: the end of that, or all of it."""
    vocabulary: Vocabulary
    facts: Mapping[str, Json]
    """What the manifest says of the data."""

    def __len__(self) -> int:
        """Count the devices."""

    def only(self, devices: NDArray[np.int64]) -> Self:
        """Return the exam of some of the devices, by their places in this one."""

    @property
    def samples(self) -> Sequence[object]:
        """What each device sends."""

    @property
    def inputs(self) -> NDArray[np.generic]:
        """The samples as the networks get them, ``[U, T, ...]``."""

    @property
    def newest(self) -> NDArray[np.int64]:
        """The flat positions ``[U]`` in ``[U * T]`` of what each device predicts from."""

    def value(self, device: DeviceModel, place: int) -> float:
        """Measure the device at a place, which predicts with this model; higher is better."""

    def card(self, backbone: str, training: Mapping[str, Json], devices: int) -> CardText:
        """Tell a reader what the model is, what ``devices`` of them were measured on, and its limits."""


def exam_of(config: TrainingConfig, data: Data) -> Exam:
    """Return the exam of the validation part of some data."""
    if isinstance(data, DigitDevices):
        return ClassificationExam(data, ask_pictures(data.validation, config.backbone.length))
    split = split_of(config, data)
    users = split.evaluated("validation")
    return RankingExam(split, users, config.sample_length, device_length=config.backbone.length)


class RankingExam:
    """The next item of each user, in the full catalogue."""

    task, metric = "ranking", "ndcg@10"

    def __init__(
        self, split: Split, users: NDArray[np.int64], length: int, *, device_length: int | None = None
    ) -> None:
        self._split, self._users, self._length = split, users, length
        self._device_length = length if device_length is None else device_length
        data = split.interactions
        item_type = "integer" if all(isinstance(raw, int) for raw in data.item_ids) else "string"
        most = max(MAX_SAMPLE_ITEMS, length)
        self.signature: Signature = SequenceSignature(length, most, item_type)
        self.device_signature: Signature = SequenceSignature(self._device_length, most, item_type)
        self.vocabulary = Vocabulary(data.item_ids, data.titles)
        self.facts: Mapping[str, Json] = {
            "users": data.user_count,
            "items": data.item_count,
            "interactions": len(data.items),
        }

    def __len__(self) -> int:
        return len(self._users)

    def only(self, devices: NDArray[np.int64]) -> "RankingExam":
        """Return the exam of some of the users."""
        return RankingExam(self._split, self._users[devices], self._length, device_length=self._device_length)

    @cached_property
    def questions(self) -> Questions:
        """The questions of all users."""
        return ask(self._split, self._users, "validation", self._length)

    @cached_property
    def samples(self) -> list[object]:
        """The latest raw item ids of each user."""
        ids = np.array([None, *self._split.interactions.item_ids], object)
        return [ids[row[row != 0]].tolist() for row in self.questions.samples]

    @property
    def inputs(self) -> NDArray[np.int64]:
        """Catalogue indices, int64 ``[U, T]``."""
        return self.questions.samples

    @property
    def newest(self) -> NDArray[np.int64]:
        """The flat positions of the newest items."""
        return last_positions(self.inputs.astype(np.int32))

    def value(self, device: DeviceModel, place: int) -> float:
        """Return the NDCG@10 of the user's held-out item."""
        scores = device.scores(self.samples[place])[None].copy()
        return float(ranks_of_scores(scores, self.questions, slice(place, place + 1)).ndcg()[0])

    def card(self, backbone: str, training: Mapping[str, Json], devices: int) -> CardText:
        """Tell of ranking."""
        return CardText(
            about=f"A {backbone} ranker whose classifier is generated for each device from its latest items (DUET, "
            "arXiv 2209.05227).",
            data=f"{training['dataset']}: {training['users']} users, {training['items']} items, "
            f"{training['interactions']} interactions.",
            protocol=self._split.told,
            measured=f"Full-catalogue NDCG@10 on the validation item of up to {devices:,} users",
            limits="It ranks items of its vocabulary only; unknown ids in a sample are ignored. Quality on devices "
            "that behave\nunlike the training users is not known. What is uploaded is the sample itself, or its "
            "embedding, from\nwhich much of the sample can be inferred.",
            unsuitable=(
                "Where a static model of more bytes fits on the device and ranks as well: compare with "
                "`duet evaluate`.",
                "Where the device can hold the generator as well: it then needs no round trip.",
                "For devices that are seldom connected: old parameters can be worse than the shared ones.",
            ),
        )


class ClassificationExam:
    """The pictures that unseen devices take next."""

    task, metric = "classification", "accuracy"

    def __init__(self, data: DigitDevices, questions: PictureQuestions) -> None:
        self._data, self._questions = data, questions
        self.signature: Signature = TensorSignature("images", "uint8", questions.samples.shape[1:])
        self.device_signature: Signature = self.signature
        self.vocabulary = Vocabulary(tuple(range(CLASSES)))
        self.facts: Mapping[str, Json] = {
            "devices": len(data.training.labels),
            "classes": CLASSES,
            "pictures": data.training.labels.size,
        }

    def __len__(self) -> int:
        return len(self._questions.labels)

    def only(self, devices: NDArray[np.int64]) -> "ClassificationExam":
        """Return the exam of some of the devices."""
        own = self._questions
        return ClassificationExam(
            self._data, PictureQuestions(own.samples[devices], own.following[devices], own.labels[devices])
        )

    @property
    def samples(self) -> Sequence[object]:
        """The latest pictures of each device."""
        return list(self._questions.samples)

    @property
    def inputs(self) -> NDArray[np.uint8]:
        """The same, uint8 ``[U, T, 8, 8]``."""
        return self._questions.samples

    @property
    def newest(self) -> NDArray[np.int64]:
        """The flat positions of the newest pictures."""
        length = self.inputs.shape[1]
        newest: NDArray[np.int64] = np.arange(len(self)) * length + length - 1
        return newest

    def value(self, device: DeviceModel, place: int) -> float:
        """Return the share of the following pictures that the device classifies rightly."""
        scores = device.scores_batch([picture[None] for picture in self._questions.following[place]])
        return float((scores.argmax(1) == self._questions.labels[place]).mean())

    def card(self, backbone: str, training: Mapping[str, Json], devices: int) -> CardText:
        """Tell of classification."""
        return CardText(
            about=f"A {backbone} whose second convolution and classifier are generated for each device from its latest "
            "pictures\n(DUET, arXiv 2209.05227).",
            data=f"{training['dataset']}: {training['devices']} devices with {PICTURES} pictures each, of "
            f"{training['classes']} classes.",
            protocol="Pictures of other devices and other images are validated on, and select the best epoch; a third "
            "part is kept for\ntests and was not looked at.",
            measured=f"Accuracy on the next {ASKED} pictures of up to {devices:,} devices that training has not seen, "
            "the mean over\ndevices",
            limits="It classifies pictures of 8 x 8 pixels in one channel. Quality on cameras unlike those of training "
            "is not known.\nWhat is uploaded are the pictures themselves, or their embedding.",
            unsuitable=(
                "Where a static model of more bytes fits on the device and classifies as well: compare with "
                "`duet evaluate`.",
                "Where the device can hold the generator as well: it then needs no round trip.",
                "Where pictures must not leave the device and their embedding tells too much.",
            ),
        )
