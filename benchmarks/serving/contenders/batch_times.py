"""How long each stage takes for a batch, alone in a process: for so long ``@serve.batch`` waits in one contender.

python -m benchmarks.serving.contenders.batch_times --models models --model demo --devices 64
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.serving.bodies import bodies
from benchmarks.serving.contenders.job import ANSWER, Job

MOST_DEVICES = 64
"""In a batch of ``@serve.batch``."""

_WARM_UPS, _ROUNDS = 10, 50


def slowest_ms(models: Path, model: str, *, devices: int, cores: str) -> float:
    """Run this module on some cores; return the time of the stage that takes longest.

    Args:
        models: Folder of published models.
        model: Whose active version computes.
        devices: In the batch.
        cores: As ``taskset -c`` reads them.

    Raises:
        RuntimeError: If it fails.
    """
    line = ["taskset", "-c", cores, sys.executable, "-m", "benchmarks.serving.contenders.batch_times"]
    line += ["--models", str(models), "--model", model, "--devices", str(devices)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    if finished.returncode:
        raise RuntimeError(f"Expected times of the stages, got {finished.stderr[-1000:]}")
    slowest: float = max(json.loads(finished.stdout.splitlines()[-1]).values())
    return slowest


def batch_times(models: Path, model: str, devices: int) -> dict[str, float]:
    """Measure medians in milliseconds, by stage.

    Args:
        models: Folder of published models.
        model: Whose active version computes.
        devices: In the batch.
    """
    # not at the top: who runs this module needs none of it
    from deployments.composer import Composer
    from deployments.encoder import Encoder
    from deployments.parameter_generator import ParameterGenerator

    job = Job.of(models, model)
    which = {"model": job.model, "version": job.version}
    encoder, generator, composer = Encoder(models), ParameterGenerator(models), Composer(models)
    for stage in (encoder, generator, composer):
        stage.prepare(**which)
    lines = bodies(models, model, budget_ms=1000.0)
    asked = [job.read(lines[number % len(lines)].encode()) for number in range(devices)]
    samples, tags = [request.sample for request, _ in asked], [tag for _, tag in asked]
    plans, answers = [job.representation] * devices, [ANSWER] * devices
    rounds = []
    for _ in range(_WARM_UPS + _ROUNDS):
        marks_s = [time.perf_counter()]
        embeddings = encoder.encode(samples, **which)
        marks_s.append(time.perf_counter())
        made = generator.generate(embeddings, plans, **which)
        marks_s.append(time.perf_counter())
        composer.compose(made, plans, tags=tags, answers=answers, **which)
        marks_s.append(time.perf_counter())
        rounds.append([1000 * (end_s - start_s) for start_s, end_s in pairwise(marks_s)])
    stages = zip(("encode", "generate", "compose"), zip(*rounds[_WARM_UPS:], strict=True), strict=True)
    return {stage: statistics.median(times_ms) for stage, times_ms in stages}


def main() -> None:
    """Measure and print a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.contenders.batch_times", description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--devices", type=int, required=True, help="in the batch")
    options = parser.parse_args()
    print(json.dumps(batch_times(options.models, options.model, options.devices)))


if __name__ == "__main__":
    main()
