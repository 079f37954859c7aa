"""The three stages one after the other, in one process or across handles, a batch at a time.

Knows nothing of HTTP and, of itself, of torch or ONNX: the stages are given.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deployments.compute_estimate import ComputeEstimate
from deployments.device_embeddings import ready_embeddings
from deployments.handles import call_every_replica, is_outage, passed_on
from deployments.loading import VersionLoader
from deployments.logs import naming
from deployments.orders import Answered, Order, Timed
from deployments.pin_follower import PinFollower
from deployments.remaining_time import RemainingMs
from deployments.telemetry import StageTimes, Stopwatch
from deployments.worker import Worker
from duet.protocol.errors import DuetError, GenerationError, VersionNotReady

if TYPE_CHECKING:
    from deployments.composer import Composer
    from deployments.encoder import Encoder
    from deployments.parameter_generator import ParameterGenerator

_OUTAGE_S = 2.0

logger = logging.getLogger(__name__)

Outcome = Answered | Exception
"""What became of one order."""


class Pipeline(Protocol):
    """What the gateway needs of a placement."""

    async def prepare(self, model: str, version: str) -> None:
        """Make a version servable beside the others."""

    async def check(self) -> None:
        """Return when every stage has answered."""

    def run_now(self, orders: Sequence[Order]) -> list[Outcome] | None:
        """Answer orders of one kind, in order, before this returns; None, and nothing done, if that takes long."""

    async def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Answer orders of one kind, in order."""


BRIEF_MS = 25.0
"""A batch that should take no longer runs on the event loop itself. On a thread beside it the two would take the
interpreter from each other, which either may keep for 5 ms (``sys.getswitchinterval``) whenever it has it."""


class ColocatedPipeline:
    """All stages in this process: brief batches on the event loop, others on one worker thread, so that it stays free.

    Runs one batch at a time. Versions are loaded on a second thread while the others go on.
    """

    def __init__(
        self,
        encoder: "Encoder",
        generator: "ParameterGenerator",
        composer: "Composer",
        *,
        intra_op_threads: int = 1,
        brief_ms: float = BRIEF_MS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Chain the stages.

        Args:
            encoder: The first one.
            generator: The second one.
            composer: The third one.
            intra_op_threads: Of the encoder's sessions.
            brief_ms: Up to what predicted time a batch runs on the event loop; 0 for never.
            clock: Seconds.
        """
        self._encoder, self._generator, self._composer = encoder, generator, composer
        self._brief_ms, self._clock = brief_ms, clock
        self._costs: dict[Hashable, ComputeEstimate] = {}
        self._worker = Worker("stages")
        self._loader = VersionLoader(intra_op_threads=intra_op_threads)
        self._follower: PinFollower | None = None

    def follow(self, models: str, *, only: str | None, every_s: float) -> None:
        """Keep ready what the pins name, beside what the gateway asks for: the version to roll back to.

        Args:
            models: Root of the model repository.
            only: The only model to serve; all by default.
            every_s: Between two looks.
        """
        self._follower = PinFollower(models, self._load, only=only)
        self._follower.start(loader=self._loader, every_s=every_s)

    async def prepare(self, model: str, version: str) -> None:
        """Load a version in every stage.

        Raises:
            DuetError: If a stage cannot serve it.
        """
        await self._loader.run(self._load, model, version)

    async def check(self) -> None:
        """Return when an idle worker thread has answered; judge a busy one by its batches.

        Raises:
            RuntimeError: If it is stuck, or most of its batches fail.
        """
        await self._worker.check()

    def run_now(self, orders: Sequence[Order]) -> list[Outcome] | None:
        """Answer a brief batch on the event loop."""
        cost = self._costs.get(orders[0].kind)
        # what has not run yet is not known to be brief: it may have to load a version
        if cost is None or cost.predict_ms(len(orders)) > self._brief_ms:
            return None
        return self._worker.run_here(len(orders), partial(self._learn, orders))

    async def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Answer a batch on the worker thread."""
        return await self._worker.run(len(orders), partial(self._learn, orders))

    def _learn(self, orders: Sequence[Order]) -> list[Outcome]:
        started_s = self._clock()
        outcomes = self._compute(orders)
        cost = self._costs.setdefault(orders[0].kind, ComputeEstimate())
        cost.observe(len(orders), (self._clock() - started_s) * 1000)
        return outcomes

    def _load(self, model: str, version: str) -> None:
        for stage in (self._encoder, self._generator, self._composer):
            stage.prepare(model, version)

    def _compute(self, orders: Sequence[Order]) -> list[Outcome]:
        model, version, _ = orders[0].kind
        representations = [order.representation for order in orders]
        with Stopwatch() as encoding:
            embeddings = self._encoder.encode([order.sample for order in orders], model=model, version=version)
        with Stopwatch() as generating:
            bodies = self._generator.generate(embeddings, representations, model=model, version=version)
        with Stopwatch() as composing:
            contents = self._composer.compose(
                bodies,
                representations,
                tags=[order.tag for order in orders],
                answers=[order.answer for order in orders],
                model=model,
                version=version,
            )
        times = StageTimes(0.0, encoding.elapsed_ms, generating.elapsed_ms, composing.elapsed_ms)
        return _outcomes(contents, times)


class SplitPipeline:
    """One deployment a stage. A batch crosses each hop once; what a stage makes goes straight to the next one.

    Members whose time is over are left out by the stage that is about to compute the batch, and told ``TimeoutError``.
    Members whose device has hung up are left out by the stages that the batch has yet to go to, where it passes through
    here on its way (``handles.passed_on``); the stage that has it, and where references are passed on every stage,
    computes them as well. A batch that nobody waits for is cancelled as a whole.
    """

    def __init__(
        self, encoder: Any, generator: Any, composer: Any, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Chain the handles of three deployments.

        Args:
            encoder: Handle of ``EncoderReplica``.
            generator: Handle of ``ParameterGeneratorReplica``.
            composer: Handle of ``ComposerReplica``.
            clock: Seconds; that of the deadlines of the orders.
        """
        self._encoder, self._generator, self._composer = encoder, generator, composer
        self._clock = clock
        self._is_out = False

    async def prepare(self, model: str, version: str) -> None:
        """Load a version in every replica of every stage that runs now; those born later load it at birth.

        Raises:
            DuetError: If a replica cannot serve it.
        """
        calls = [call_every_replica(stage, "prepare", model, version) for stage in self._stages]
        try:
            await asyncio.gather(*calls)
        except Exception as error:
            raise _cause(error, model, version) from error

    async def check(self) -> None:
        """Return when the worker of a replica of every stage has answered."""
        # one task a stage: a handle's response can be awaited, but is no coroutine
        await asyncio.gather(*(_awaited(stage.check_health.remote()) for stage in self._stages))

    def run_now(self, orders: Sequence[Order]) -> None:
        """Answer nothing: the stages are elsewhere."""

    async def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Answer orders of one kind, in order; once more if a replica dies meanwhile, since asking changes nothing.

        Raises:
            VersionNotReady: If no replica of a stage answers.
        """
        if not self._is_out:
            try:
                return await self._run(orders)
            except VersionNotReady as outage:
                with naming(_request_ids(orders)):
                    logger.warning("A stage does not answer, its other replicas are asked: %r", outage.__cause__)
                self._is_out = True
        try:
            # where no replica is left Serve waits for the next one, and so would whoever queues behind this batch
            async with asyncio.timeout(_OUTAGE_S):
                outcomes = await self._run(orders)
        except TimeoutError as error:
            model, version, _ = orders[0].kind
            raise VersionNotReady(model=model, version=version) from error
        self._is_out = False
        return outcomes

    async def _run(self, orders: Sequence[Order]) -> list[Outcome]:
        model, version, _ = orders[0].kind
        batch = {"model": model, "version": version, "request_ids": _request_ids(orders)}
        representations = [order.representation for order in orders]
        tags, answers = [order.tag for order in orders], [order.answer for order in orders]
        remaining_ms = self._remaining_ms(orders)
        samples = [order.sample for order in orders]
        calls: list[Any] = []
        try:
            ready = ready_embeddings(samples)
            if ready is None:
                calls.append(self._encoder.encode.remote(samples, **batch, remaining_ms=remaining_ms))
                embeddings = self._looked_at(await passed_on(calls[-1]), orders)
            else:  # nothing to encode: a hop less
                embeddings = Timed(ready, StageTimes(), remaining_ms)
            calls.append(self._generator.generate.remote(embeddings, representations, **batch))
            bodies = self._looked_at(await passed_on(calls[-1]), orders)
            further = {"tags": tags, "answers": answers}
            calls.append(self._composer.compose.remote(bodies, representations, **further, **batch))
            contents: Timed[Sequence[bytes | GenerationError | None]] = await calls[-1]
        except asyncio.CancelledError:
            # nobody waits for the batch any more; a stage that computes it already goes on to the end
            for call in calls:
                call.cancel()
            raise
        except Exception as error:
            raise _cause(error, model, version) from error
        return _outcomes([None] * len(orders) if contents.value is None else contents.value, contents.times)

    def _looked_at(self, passing: Any, orders: Sequence[Order]) -> Any:
        """Count the way here, and leave out who has gone meanwhile, in a batch that passes by value."""
        if not isinstance(passing, Timed):
            return passing
        # never more than a stage has told: who was left out has no row
        return replace(passing, remaining_ms=np.minimum(passing.remaining_ms, self._remaining_ms(orders)))

    def _remaining_ms(self, orders: Sequence[Order]) -> RemainingMs:
        deadlines_s = [order.deadline_s if order.is_wanted else -math.inf for order in orders]
        return (np.array(deadlines_s) - self._clock()) * 1000

    @property
    def _stages(self) -> tuple[Any, Any, Any]:
        return self._encoder, self._generator, self._composer


async def _awaited(response: Any) -> None:
    await response


def _request_ids(orders: Sequence[Order]) -> list[str]:
    return [order.request_id for order in orders]


def _outcomes(contents: Sequence[bytes | GenerationError | None], times: StageTimes) -> list[Outcome]:
    """Tell who was left out what a batcher tells those whose time is over."""
    return [
        Answered(content, times) if isinstance(content, bytes) else content or TimeoutError("expired")
        for content in contents
    ]


def _cause(error: Exception, model: str, version: str) -> Exception:
    """Find our own error in what Ray wraps around an error of another process, or make one of an outage."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, DuetError):
        return cause
    return VersionNotReady(model=model, version=version) if is_outage(error) else error
