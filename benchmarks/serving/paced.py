"""An application whose generator waits for a recorded cost instead of computing, so that replicas really add capacity.

    cost(n) = b + a * n        milliseconds of a batch of n devices: what an accelerator of its own would take

A machine of two cores cannot show that a stage scales: a second replica takes the cores of the first. Here the worker
thread sleeps for what an accelerator would have worked, and everything else is the product. Never for claims about
throughput: the bodies are those of the first device that asked, of the right form and size.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeFloat
from ray.serve import Application

from app.builder import wire
from app.settings import AppSettings
from deployments.parameter_generator import ParameterGenerator
from deployments.replicas import ParameterGeneratorReplica
from duet.protocol.representation import Representation


class PacedSettings(AppSettings):
    """``args`` of an application with a paced generator."""

    batch_ms: NonNegativeFloat = 30.0
    device_ms: NonNegativeFloat = 15.0


def build_app(args: PacedSettings) -> Application:
    """Wire split placement with a paced generator: ``import_path`` is ``benchmarks.serving.paced:build_app``."""
    return wire(args, PacedGeneratorReplica, batch_ms=args.batch_ms, device_ms=args.device_ms)


class PacedGenerator:
    """Answers like a ``ParameterGenerator`` after the time that the batch is said to cost."""

    def __init__(self, generator: ParameterGenerator, *, batch_ms: float, device_ms: float) -> None:
        """Pace a generator.

        Args:
            generator: Where the first body of each representation comes from.
            batch_ms: What a batch costs however small it is.
            device_ms: What each device adds.
        """
        self._generator, self._batch_ms, self._device_ms = generator, batch_ms, device_ms
        self._bodies: dict[tuple[str, str, Representation], bytes | None] = {}

    def generate(
        self,
        embeddings: npt.NDArray[np.float32],
        representations: Sequence[Representation],
        *,
        model: str,
        version: str,
    ) -> list[bytes | None]:
        """Wait, then return a body for each device; the arguments are those of ``ParameterGenerator``."""
        started_s = time.perf_counter()
        for representation in set(representations):
            key = (model, version, representation)
            if key not in self._bodies:
                (self._bodies[key],) = self._generator.generate(
                    embeddings[:1], [representation], model=model, version=version
                )
        cost_s = (self._batch_ms + self._device_ms * len(representations)) / 1000
        time.sleep(max(0.0, cost_s - (time.perf_counter() - started_s)))
        return [self._bodies[model, version, representation] for representation in representations]


class PacedGeneratorReplica(ParameterGeneratorReplica):
    """Serves a ``PacedGenerator``: the product's own replica around another stage."""

    def __init__(
        self,
        models: str,
        *,
        batch_ms: float,
        device_ms: float,
        **options: Any,
    ) -> None:
        super().__init__(models, **options)
        paced = PacedGenerator(self._stage, batch_ms=batch_ms, device_ms=device_ms)
        self._stage = paced  # type: ignore[assignment]  # it has the one method that is called here
