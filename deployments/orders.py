"""What crosses from the gateway to the stages and back: orders, answers, and arrays with their times."""

import math
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from deployments.remaining_time import RemainingMs
from deployments.telemetry import StageTimes
from duet.protocol.representation import Representation

Value = TypeVar("Value")

AnswerKind: TypeAlias = Literal["package", "onnx"]
"""What the bytes of an answer are: a parameter package, or a whole device model."""


@dataclass(slots=True)
class Order:
    """What one request asks of the stages, decided before any work. It stays in the gateway's process."""

    model: str
    version: str
    sample: object
    """What the signature asks for, or a ``DeviceEmbedding`` of it."""
    representation: Representation
    tag: bytes
    answer: AnswerKind
    deadline_s: float = math.inf
    """When the answer is worthless, on the gateway's clock."""
    request_id: str = ""
    """For the logs of the stages."""
    is_wanted: bool = True
    """False from the moment that the device hangs up; nothing else of an order changes."""

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
    """What a stage hands to the next one, with the times so far and what is left of the time of each member."""

    value: Value | None
    """A row a member, of no meaning for those who are left out; None where nobody is left."""
    times: StageTimes
    remaining_ms: RemainingMs
