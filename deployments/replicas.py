"""What makes each stage a deployment of its own: one worker thread, stage times, a health check that exercises it.

``app/builder.py`` applies ``serve.deployment`` to these. A stage's libraries are imported where its replica is born, so
a process that only passes these classes on loads none of them.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from deployments.logs import LogFormat, configure_logs
from deployments.orders import AnswerKind, Timed
from deployments.telemetry import StageTimes, Stopwatch
from duet.protocol.errors import GenerationError
from duet.protocol.representation import Representation
from duet.registry import Registry

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")


class _Stage(Protocol):
    def prepare(self, model: str, version: str) -> None: ...


class StageWorker:
    """The one thread on which a replica computes, and a second one on which it loads versions."""

    def __init__(self, stage: _Stage, models: str, model: str | None, log_format: LogFormat = "text") -> None:
        """Prepare every active version, so that a replica that takes requests has them.

        Args:
            stage: What computes.
            models: Root of the model repository.
            model: The only model to serve; all by default.
            log_format: How this process writes its log.

        Raises:
            DuetError: If an active version cannot be served.
        """
        configure_logs(log_format)
        self._stage = stage
        self._worker, self._loader = ThreadPoolExecutor(1, "stage"), ThreadPoolExecutor(1, "versions")
        registry = Registry(Path(models))
        for name in registry.models() if model is None else [model]:
            stage.prepare(name, registry.active(name))

    async def prepare(self, model: str, version: str) -> None:
        """Load a version while the worker goes on."""
        await asyncio.get_running_loop().run_in_executor(self._loader, self._stage.prepare, model, version)

    async def check(self) -> None:
        """Return when the worker thread has answered."""
        await asyncio.get_running_loop().run_in_executor(self._worker, bool)

    async def timed(
        self, compute: Callable[Parameters, Value], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> tuple[Value, float]:
        """Compute on the worker thread; return the value and the milliseconds it took there."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, _timed, partial(compute, *args, **kwargs))


class EncoderReplica:
    """Serves an ``Encoder``."""

    def __init__(
        self, models: str, *, model: str | None, intra_op_threads: int, log_format: LogFormat = "text"
    ) -> None:
        from deployments.encoder import Encoder

        self._stage = Encoder(models, intra_op_threads=intra_op_threads)
        self._worker = StageWorker(self._stage, models, model, log_format)

    async def prepare(self, model: str, version: str) -> None:
        """Load a version."""
        await self._worker.prepare(model, version)

    async def check_health(self) -> None:
        """Show that the worker thread answers."""
        await self._worker.check()

    async def encode(self, samples: Sequence[object], *, model: str, version: str) -> Timed[npt.NDArray[np.float32]]:
        """Embed a batch."""
        embeddings, elapsed_ms = await self._worker.timed(self._stage.encode, samples, model=model, version=version)
        return Timed(embeddings, StageTimes(encode_ms=elapsed_ms))


class ParameterGeneratorReplica:
    """Serves a ``ParameterGenerator``."""

    def __init__(
        self,
        models: str,
        *,
        model: str | None,
        accelerator: str,
        intra_op_threads: int,
        log_format: LogFormat = "text",
    ) -> None:
        from deployments.parameter_generator import ParameterGenerator

        self._stage = ParameterGenerator(models, accelerator=accelerator, intra_op_threads=intra_op_threads)
        self._worker = StageWorker(self._stage, models, model, log_format)

    async def prepare(self, model: str, version: str) -> None:
        """Load a version."""
        await self._worker.prepare(model, version)

    async def check_health(self) -> None:
        """Show that the worker thread answers."""
        await self._worker.check()

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
        bodies, elapsed_ms = await self._worker.timed(generate)
        return Timed(bodies, replace(embeddings.times, generate_ms=elapsed_ms))


class ComposerReplica:
    """Serves a ``Composer``."""

    def __init__(self, models: str, *, model: str | None, log_format: LogFormat = "text") -> None:
        from deployments.composer import Composer

        self._stage = Composer(models)
        self._worker = StageWorker(self._stage, models, model, log_format)

    async def prepare(self, model: str, version: str) -> None:
        """Load a version."""
        await self._worker.prepare(model, version)

    async def check_health(self) -> None:
        """Show that the worker thread answers."""
        await self._worker.check()

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
        compose = partial(self._stage.compose, bodies.value, representations, tags=tags, answers=answers)
        contents, elapsed_ms = await self._worker.timed(compose, model=model, version=version)
        return Timed(contents, replace(bodies.times, compose_ms=elapsed_ms))


def _timed(compute: Callable[[], Value]) -> tuple[Value, float]:
    with Stopwatch() as watch:
        value = compute()
    return value, watch.elapsed_ms
