"""Where the time of a request went, measured stage by stage, and the record of what became of it."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias

from duet.protocol.budget import Plan
from duet.protocol.errors import DeadlineExceeded

Rung: TypeAlias = Literal["plan", "keep", "shared", "refused"]
"""What a request got: generated parameters, "keep what you have", the shared ones, or an error."""

TRACEPARENT_CHARACTERS = 55
"""Of the W3C's header; later forms of it may go on after these."""

_DEADLINE_EXCEEDED = DeadlineExceeded.code


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds in the queue and in each stage; those of the stages are of the whole batch."""

    queue_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0
    compose_ms: float = 0.0

    def queued(self, queue_ms: float) -> "StageTimes":
        """Add the time of one request before its batch left."""
        return StageTimes(queue_ms, self.encode_ms, self.generate_ms, self.compose_ms)

    def server_timing(self) -> str:
        """Spell the ``Server-Timing`` header."""
        return (
            f"queue;dur={self.queue_ms:.2f}, encode;dur={self.encode_ms:.2f}, "
            f"generate;dur={self.generate_ms:.2f}, compose;dur={self.compose_ms:.2f}"
        )


class Stopwatch:
    """Measures a block: ``with Stopwatch() as watch: ...``, then ``watch.elapsed_ms``."""

    elapsed_ms = 0.0

    def __enter__(self) -> Self:
        self._started_s = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.elapsed_ms = (time.perf_counter() - self._started_s) * 1000


@dataclass(frozen=True, slots=True)
class Origin:
    """What a request brings along from outside, to be found again in traces.

    Attributes:
        request_id: As in the header ``X-Request-Id``.
        traceparent: The W3C header of a caller that traces; empty if there is none.
    """

    request_id: str = ""
    traceparent: str = ""


@dataclass(slots=True)
class RequestRecord:
    """What became of one request: filled in on its way, and what metrics, traces and logs are made of afterwards.

    Attributes:
        budget_ms: What the device allows.
        origin: Who asked.
        started_s: When it had arrived, on the gateway's clock: before it was read, if the process was late to read.
        model: Empty until the catalogue has found it: what a client calls a model is no label.
        version: Empty until then.
        plan: Name of the representation.
        predicted_ms: Server time that the plan expected.
        network_ms: What the link takes, by the plan.
        plan_ms: From its arrival to the end of planning.
        batch_size: Requests in its batch; 0 if nothing was computed.
        times: Queue and stages.
        is_kept: The device was told to keep what it holds.
        content_bytes: Body of the answer.
        server_ms: From its arrival to the answer.
        reason: Code of the error; empty if it was answered.
    """

    budget_ms: float
    origin: Origin
    started_s: float
    model: str = ""
    version: str = ""
    plan: str = ""
    predicted_ms: float = 0.0
    network_ms: float = 0.0
    plan_ms: float = 0.0
    batch_size: int = 0
    times: StageTimes = StageTimes()
    is_kept: bool = False
    content_bytes: int = 0
    server_ms: float = 0.0
    reason: str = ""

    def planned(self, plan: Plan, *, now_s: float) -> None:
        """Note what was chosen, before any work."""
        self.plan, self.predicted_ms, self.network_ms = str(plan.representation), plan.server_ms, plan.network_ms
        self.plan_ms = (now_s - self.started_s) * 1000

    def kept(self, network_ms: float) -> None:
        """Note that the device is told to keep what it holds, whatever was planned before."""
        self.is_kept, self.plan, self.network_ms = True, "", network_ms

    def computed(self, times: StageTimes, *, batch_size: int) -> None:
        """Note what the stages took."""
        self.times, self.batch_size = times, batch_size

    @property
    def rung(self) -> Rung:
        """How far down the ladder the answer stands."""
        if self.reason:
            return "refused"
        if self.is_kept:
            return "keep"
        return "plan" if self.batch_size else "shared"

    @property
    def hops_ms(self) -> float:
        """What of the server's time neither planning nor queue nor a stage has taken."""
        times = self.times
        inside_ms = self.plan_ms + times.queue_ms + times.encode_ms + times.generate_ms + times.compose_ms
        return max(0.0, self.server_ms - inside_ms)

    @property
    def slack_ms(self) -> float:
        """What is left of the budget when the last byte has arrived."""
        return self.budget_ms - self.network_ms - self.server_ms

    @property
    def is_missed(self) -> bool:
        """Whether the budget ran out: refused for that, or answered too late all the same."""
        return self.reason == _DEADLINE_EXCEEDED or (not self.reason and self.slack_ms < 0)
