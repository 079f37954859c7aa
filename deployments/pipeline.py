"""The three stages one after the other, in one process or across handles, a batch at a time.

Knows nothing of HTTP and, of itself, of torch or ONNX: the stages are given.
"""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from deployments.compute_estimate import ComputeEstimate
from deployments.orders import Answered, Order, Timed
from deployments.telemetry import StageTimes, Stopwatch
from duet.protocol.errors import DuetError, GenerationError

if TYPE_CHECKING:
    from deployments.composer import Composer
    from deployments.encoder import Encoder
    from deployments.parameter_generator import ParameterGenerator

Outcome = Answered | Exception
"""What became of one order."""


class Pipeline(Protocol):
    """What the gateway needs of a placement."""

    async def prepare(self, model: str, version: str) -> None:
        """Make a version servable beside the others."""

    async def check(self) -> None:
        """Return when every stage has answered."""

    async def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Answer orders of one kind, in order."""


BRIEF_MS = 2.0
"""A batch that should take no longer runs on the event loop itself: handing it over costs it as much again."""


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
        brief_ms: float = BRIEF_MS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Chain the stages.

        Args:
            encoder: The first stage.
            generator: The second.
            composer: The third.
            brief_ms: Up to what predicted time a batch runs on the event loop; 0 for never.
            clock: Seconds.
        """
        self._encoder, self._generator, self._composer = encoder, generator, composer
        self._brief_ms, self._clock = brief_ms, clock
        self._costs: dict[Hashable, ComputeEstimate] = {}
        self._worker = ThreadPoolExecutor(1, "stages")
        self._loader = ThreadPoolExecutor(1, "versions")

    async def prepare(self, model: str, version: str) -> None:
        """Load a version in every stage.

        Raises:
            DuetError: If a stage cannot serve it.
        """
        loop = asyncio.get_running_loop()
        for stage in (self._encoder, self._generator, self._composer):
            await loop.run_in_executor(self._loader, stage.prepare, model, version)

    async def check(self) -> None:
        """Return when the worker thread has answered."""
        await asyncio.get_running_loop().run_in_executor(self._worker, bool)

    async def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Answer orders of one kind, in order."""
        # what has not run yet is not known to be brief: it may have to load a version
        cost = self._costs.setdefault(orders[0].kind, ComputeEstimate())
        if cost.predict_ms(len(orders)) <= self._brief_ms:
            return self._learn(cost, orders)
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._learn, cost, orders)

    def _learn(self, cost: ComputeEstimate, orders: Sequence[Order]) -> list[Outcome]:
        started_s = self._clock()
        outcomes = self._compute(orders)
        cost.observe(len(orders), (self._clock() - started_s) * 1000)
        return outcomes

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
    """One deployment a stage. A batch crosses each hop once; what a stage makes goes straight to the next one."""

    def __init__(self, encoder: Any, generator: Any, composer: Any) -> None:
        """Chain three Ray Serve handles of the replicas in ``replicas.py``."""
        self._encoder, self._generator, self._composer = encoder, generator, composer

    async def prepare(self, model: str, version: str) -> None:
        """Load a version in a replica of every stage; the other replicas load it when they meet it.

        Raises:
            DuetError: If a stage cannot serve it.
        """
        await self._everywhere("prepare", model, version)

    async def check(self) -> None:
        """Return when the worker of a replica of every stage has answered."""
        await self._everywhere("check_health")

    async def run(self, orders: Sequence[Order]) -> list[Outcome]:
        """Answer orders of one kind, in order."""
        model, version, _ = orders[0].kind
        batch = {"model": model, "version": version}
        representations = [order.representation for order in orders]
        # responses are passed on un-awaited, so Serve chains the three calls
        embeddings = self._encoder.encode.remote([order.sample for order in orders], **batch)
        bodies = self._generator.generate.remote(embeddings, representations, **batch)
        tags, answers = [order.tag for order in orders], [order.answer for order in orders]
        finished = self._composer.compose.remote(bodies, representations, tags=tags, answers=answers, **batch)
        try:
            contents: Timed[list[bytes | GenerationError]] = await finished
        except Exception as error:
            raise _cause(error) from error
        return _outcomes(contents.value, contents.times)

    async def _everywhere(self, method: str, *arguments: str) -> None:
        stages = (self._encoder, self._generator, self._composer)
        # one task a stage: a handle's response can be awaited, but is no coroutine
        calls = [_awaited(getattr(stage, method).remote(*arguments)) for stage in stages]
        try:
            await asyncio.gather(*calls)
        except Exception as error:
            raise _cause(error) from error


async def _awaited(response: Any) -> None:
    await response


def _outcomes(contents: Sequence[bytes | GenerationError], times: StageTimes) -> list[Outcome]:
    return [Answered(content, times) if isinstance(content, bytes) else content for content in contents]


def _cause(error: Exception) -> Exception:
    """Find our own error in what Ray wraps around an error of another process."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, DuetError) else error
