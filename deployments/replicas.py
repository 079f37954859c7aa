"""What makes each stage a deployment of its own: one worker thread, stage times, a health check that exercises it.

``app/builder.py`` applies ``serve.deployment`` to these. A stage's libraries are imported where its replica is born, so
a process that only passes these classes on loads none of them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from deployments.garbage_collector import serve_from_here
from deployments.loading import VersionLoader
from deployments.logs import LogFormat, configure_logs, naming
from deployments.metrics import StageMetrics
from deployments.metrics_export import RayGauges
from deployments.orders import AnswerKind, Timed
from deployments.pin_follower import PinFollower
from deployments.priority import let_watchers_wait
from deployments.remaining_time import Countdown, RemainingMs
from deployments.telemetry import StageTimes, Stopwatch
from deployments.worker import Worker
from duet.protocol.errors import DuetError, GenerationError
from duet.protocol.representation import Representation
from duet.registry import Registry

Rows = TypeVar("Rows")


REFRESH_S = 2.0
"""How often a replica looks at the pins unless it is told otherwise."""

logger = logging.getLogger(__name__)


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

    async def timed(
        self, remaining_ms: RemainingMs, request_ids: Sequence[str], compute: Callable[..., Rows], **columns: Any
    ) -> tuple[Rows | None, float, RemainingMs]:
        """Compute on the worker thread those members of a batch whose time is not over when its turn comes.

        Args:
            remaining_ms: What each member has left.
            request_ids: Of each member.
            compute: Makes one row of each member, from their rows of every column.
            columns: What it gets by name, a row a member.

        Returns:
            A row a member, None if nobody is left; the milliseconds it took on the thread; and what each has left. Who
            has nothing left may have been left out.
        """
        countdown = Countdown(remaining_ms)
        computing = partial(_computed, countdown, request_ids, compute, columns)
        rows, elapsed_ms = await self._worker.run(countdown.size, computing, begin=countdown.begin)
        return rows, elapsed_ms, countdown.remaining_ms


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
        self,
        samples: Sequence[object],
        *,
        model: str,
        version: str,
        remaining_ms: RemainingMs,
        request_ids: Sequence[str] = (),
    ) -> Timed[npt.NDArray[np.float32]]:
        """Embed those members of a batch whose time is not over."""
        encode = partial(self._stage.encode, model=model, version=version)
        embeddings, elapsed_ms, left_ms = await self._worker.timed(remaining_ms, request_ids, encode, samples=samples)
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
        request_ids: Sequence[str] = (),
    ) -> Timed[list[bytes | None]]:
        """Generate the bodies of those members of a batch whose time is not over."""
        generate = partial(self._stage.generate, model=model, version=version)
        bodies, elapsed_ms, left_ms = await self._worker.timed(
            embeddings.remaining_ms,
            request_ids,
            generate,
            embeddings=embeddings.value,
            representations=representations,
        )
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
        request_ids: Sequence[str] = (),
    ) -> Timed[Sequence[bytes | GenerationError | None]]:
        """Finish the answers of those members of a batch whose time is not over; None for the others."""
        compose = partial(self._stage.compose, model=model, version=version)
        contents, elapsed_ms, left_ms = await self._worker.timed(
            bodies.remaining_ms,
            request_ids,
            compose,
            bodies=bodies.value,
            representations=representations,
            tags=tags,
            answers=answers,
        )
        return Timed(contents, replace(bodies.times, compose_ms=elapsed_ms), left_ms)


def _computed(
    countdown: Countdown, request_ids: Sequence[str], compute: Callable[..., Rows], columns: Mapping[str, Any]
) -> tuple[Rows | None, float]:
    if not countdown.size:
        return None, 0.0
    with naming(countdown.chosen(request_ids) if request_ids else ()), Stopwatch() as watch:
        try:
            rows = compute(**{name: countdown.chosen(column) for name, column in columns.items()})
        except DuetError as error:
            logger.warning("A batch of %d is refused: %s", countdown.size, error)
            raise
        except Exception:
            logger.exception("A batch of %d met an error that it should not have met", countdown.size)
            raise
    return countdown.spread(rows), watch.elapsed_ms
