"""What crosses from the gateway to the stages and back: orders, answers, and arrays with their times."""

import math
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from deployments.telemetry import StageTimes
from duet.protocol.representation import Representation

Value = TypeVar("Value")

AnswerKind: TypeAlias = Literal["package", "onnx"]
"""What the bytes of an answer are: a parameter package, or a whole device model."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one request asks of the stages, decided before any work."""

    model: str
    version: str
    sample: object
    """What the signature asks for, or a ``DeviceEmbedding`` of it."""
    representation: Representation
    tag: bytes
    answer: AnswerKind
    deadline_s: float = math.inf
    """When the answer is worthless, on the gateway's clock."""

    @property
    def kind(self) -> tuple[str, str, AnswerKind]:
        """What the orders of one batch have in common."""
        return self.model, self.version, self.answer


@dataclass(frozen=True, slots=True)
class Answered:
    """The finished bytes for one device, and the stage times of the batch it was in."""

    content: bytes
    times: StageTimes


@dataclass(frozen=True, slots=True)
class Timed(Generic[Value]):
    """What a stage hands to the next one, with the times so far and what is left of the longest time of the batch.

    A time that is left means the same on every machine; a point on a clock does not.
    """

    value: Value
    times: StageTimes
    remaining_ms: float = math.inf
