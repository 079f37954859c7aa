"""The three stages in one process: a batch of samples to a batch of packages. The same code in every contender."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.contenders.job import ANSWER, Job
from deployments.composer import Composer
from deployments.encoder import Encoder
from deployments.parameter_generator import ParameterGenerator


class Stages:
    """Encoder, parameter generator and composer of one version. Call it from one thread."""

    def __init__(self, models: Path | str, job: Job) -> None:
        """Prepare the version that the job names."""
        self._which = {"model": job.model, "version": job.version}
        self._plan = job.representation
        self._stages = Encoder(models), ParameterGenerator(models), Composer(models)
        for stage in self._stages:
            stage.prepare(**self._which)

    def compute(self, samples: Sequence[object], tags: Sequence[bytes]) -> list[bytes]:
        """Make the packages of some devices.

        Args:
            samples: Valid ones.
            tags: Of their answers.

        Raises:
            GenerationError: If one has numbers that are not finite.
        """
        encoder, generator, composer = self._stages
        plans, answers = [self._plan] * len(samples), [ANSWER] * len(samples)
        bodies = generator.generate(encoder.encode(samples, **self._which), plans, **self._which)
        packages = []
        for content in composer.compose(bodies, plans, tags=tags, answers=answers, **self._which):
            if not isinstance(content, bytes):
                raise content
            packages.append(content)
        return packages
