"""What makes each stage a deployment of its own: one worker thread, stage times, a health check that exercises it.

``app/builder.py`` applies ``serve.deployment`` to these. A stage's libraries are imported where its replica is born, so
a process that only passes these classes on loads none of them.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from deployments.garbage_collector import serve_from_here
from deployments.loading import VersionLoader
from deployments.logs import LogFormat, configure_logs
from deployments.metrics import StageMetrics
from deployments.metrics_export import RayGauges
from deployments.orders import AnswerKind, Timed
from deployments.pin_follower import PinFollower
from deployments.priority import let_watchers_wait
from deployments.telemetry import StageTimes, Stopwatch
from deployments.worker import Worker
from duet.protocol.errors import DeadlineExceeded, GenerationError
from duet.protocol.representation import Representation
from duet.registry import Registry

Value = TypeVar("Value")


REFRESH_S = 2.0
"""How often a replica looks at the pins unless it is told otherwise."""


class _Stage(Protocol):
    def prepare(self, model: str, version: str) -> None: ...


class StageWorker:
    """The one thread on which a replica computes, and a second one on which it loads versions."""

    def __init__(
        self,
        stage: _Stage,
        models: str,
        model: str | None,
        *,
        refresh_s: float,
        intra_op_threads: int = 1,
        log_format: LogFormat = "text",
    ) -> None:
        """Prepare every active version, so that a replica that takes requests has them; follow the pins from then on.

        Args:
            stage: What computes.
            models: Root of the model repository.
            model: The only model to serve; all by default.
            refresh_s: How often to look at the pins.
            intra_op_threads: Of the sessions of the stage.
            log_format: How this process writes its log.

        Raises:
            DuetError: If an active version cannot be served.
        """
        configure_logs(log_format)
        self._stage = stage
        self._metrics, self._gauges = StageMetrics(), RayGauges()
        self._worker, self._loader = Worker("stage"), VersionLoader(intra_op_threads=intra_op_threads)
        registry = Registry(Path(models))
        for name in registry.models() if model is None else [model]:
            stage.prepare(name, registry.active(name))
        self._follower = PinFollower(models, stage.prepare, only=model)
        self._follower.look()  # the gateway may be about to send requests for the canary, or for the version before
        self._follower.start(loader=self._loader, every_s=refresh_s)
        serve_from_here()
        let_watchers_wait()

    async def prepare(self, model: str, version: str) -> None:
        """Load a version while the worker goes on."""
        await self._loader.run(self._stage.prepare, model, version)

    async def check(self) -> None:
        """Return when an idle worker thread has answered; judge a busy one by its batches.

        Raises:
            RuntimeError: If the worker is stuck, or most of its batches fail.
        """
        await self._worker.check()

    def load(self) -> dict[str, float]:
        """Tell how busy the worker was since the last time, and how long a batch had to wait; metrics say the same."""
        report = self._worker.load()
        self._gauges.publish(self._metrics.reported(report))
        return report

    async def timed(self, size: int, remaining_ms: float, compute: Callable[[], Value]) -> tuple[Value, float, float]:
        """Compute a batch on the worker thread, unless nobody waits for it any more when its turn comes.

        Args:
            size: Requests in the batch.
            remaining_ms: What the most patient of them have left.
            compute: What to do.

        Returns:
            The value, the milliseconds it took on the thread, and the milliseconds that are left.

        Raises:
            DeadlineExceeded: If none were left.
        """
        arrived_s = time.perf_counter()
        value, elapsed_ms = await self._worker.run(size, partial(_timed, compute, arrived_s, remaining_ms))
        return value, elapsed_ms, remaining_ms - (time.perf_counter() - arrived_s) * 1000


class EncoderReplica:
    """Serves an ``Encoder``."""

    def __init__(
        self,
        models: str,
        *,
        model: str | None,
        intra_op_threads: int,
        refresh_s: float = REFRESH_S,
        log_format: LogFormat = "text",
    ) -> None:
        from deployments.encoder import Encoder

        self._stage = Encoder(models, intra_op_threads=intra_op_threads)
        self._worker = StageWorker(
            self._stage,
            models,
            model,
            refresh_s=refresh_s,
            intra_op_threads=intra_op_threads,
            log_format=log_format,
        )

    async def prepare(self, model: str, version: str) -> None:
        """Load a version."""
        await self._worker.prepare(model, version)

    async def check_health(self) -> None:
        """Show that the worker thread answers."""
        await self._worker.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Serve's autoscaler how busy the worker is."""
        return self._worker.load()

    async def encode(
        self, samples: Sequence[object], *, model: str, version: str, remaining_ms: float = math.inf
    ) -> Timed[npt.NDArray[np.float32]]:
        """Embed a batch."""
        encode = partial(self._stage.encode, samples, model=model, version=version)
        embeddings, elapsed_ms, left_ms = await self._worker.timed(len(samples), remaining_ms, encode)
        return Timed(embeddings, StageTimes(encode_ms=elapsed_ms), left_ms)


class ParameterGeneratorReplica:
    """Serves a ``ParameterGenerator``."""

    def __init__(
        self,
        models: str,
        *,
        model: str | None,
        accelerator: str,
        intra_op_threads: int,
        refresh_s: float = REFRESH_S,
        log_format: LogFormat = "text",
    ) -> None:
        from deployments.parameter_generator import ParameterGenerator

        self._stage = ParameterGenerator(models, accelerator=accelerator, intra_op_threads=intra_op_threads)
        self._worker = StageWorker(self._stage, models, model, refresh_s=refresh_s, log_format=log_format)

    async def prepare(self, model: str, version: str) -> None:
        """Load a version."""
        await self._worker.prepare(model, version)

    async def check_health(self) -> None:
        """Show that the worker thread answers."""
        await self._worker.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Serve's autoscaler how busy the worker is."""
        return self._worker.load()

    async def generate(
        self,
        embeddings: Timed[npt.NDArray[np.float32]],
        representations: Sequence[Representation],
        *,
        model: str,
        version: str,
    ) -> Timed[list[bytes | None]]:
        """Generate the bodies of a batch."""
        generate = partial(self._stage.generate, embeddings.value, representations, model=model, version=version)
        bodies, elapsed_ms, left_ms = await self._worker.timed(len(representations), embeddings.remaining_ms, generate)
        return Timed(bodies, replace(embeddings.times, generate_ms=elapsed_ms), left_ms)


class ComposerReplica:
    """Serves a ``Composer``."""

    def __init__(
        self, models: str, *, model: str | None, refresh_s: float = REFRESH_S, log_format: LogFormat = "text"
    ) -> None:
        from deployments.composer import Composer

        self._stage = Composer(models)
        self._worker = StageWorker(self._stage, models, model, refresh_s=refresh_s, log_format=log_format)

    async def prepare(self, model: str, version: str) -> None:
        """Load a version."""
        await self._worker.prepare(model, version)

    async def check_health(self) -> None:
        """Show that the worker thread answers."""
        await self._worker.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Serve's autoscaler how busy the worker is."""
        return self._worker.load()

    async def compose(
        self,
        bodies: Timed[list[bytes | None]],
        representations: Sequence[Representation],
        *,
        tags: Sequence[bytes],
        answers: Sequence[AnswerKind],
        model: str,
        version: str,
    ) -> Timed[list[bytes | GenerationError]]:
        """Finish the answers of a batch."""
        which = {"model": model, "version": version}
        compose = partial(self._stage.compose, bodies.value, representations, tags=tags, answers=answers, **which)
        contents, elapsed_ms, left_ms = await self._worker.timed(len(representations), bodies.remaining_ms, compose)
        return Timed(contents, replace(bodies.times, compose_ms=elapsed_ms), left_ms)


def _timed(compute: Callable[[], Value], arrived_s: float, remaining_ms: float) -> tuple[Value, float]:
    waited_ms = (time.perf_counter() - arrived_s) * 1000
    if waited_ms >= remaining_ms:
        raise DeadlineExceeded(budget_ms=max(remaining_ms, 0.0), elapsed_ms=waited_ms)
    with Stopwatch() as watch:
        value = compute()
    return value, watch.elapsed_ms
