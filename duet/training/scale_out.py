"""Trains a run on the workers of Ray Train: data-parallel, started again when they die, watched from this process.

Ray must be running. The run folder is the only memory: every worker starts from its last checkpoint, so a worker, all
of them or this process may be killed at any moment. Ray Train keeps nothing but a marker below ``.ray-train`` there.
"""

import copy
import os
import shutil
import threading
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer

from duet.protocol.errors import DuetError
from duet.protocol.training_errors import LostWorkers, TooManyWorkers
from duet.training.checkpoint import Epoch, Progress, read_progress
from duet.training.config import TrainingConfig
from duet.training.loop import Observer, claim
from duet.training.loop import train as train_run
from duet.training.run_lock import lock, try_lock
from duet.training.tasks import Data, task_of
from duet.training.workers import ALONE, Together

FAILURES = 3
"""How often all workers are started again after one of them died."""

_STORAGE = ".ray-train"
_LOCK_PATIENCE_S, _LOCK_POLL_S = 30.0, 0.1
_WATCH_S, _STEP_S = 0.2, 0.1
_MOST_EPOCHS = 10_000


def train(
    config: TrainingConfig,
    data: Data,
    folder: Path,
    *,
    workers: int,
    threads: int = 0,
    observer: Observer | None = None,
) -> Progress:
    """Train one run on several workers, or go on where it stopped; see :func:`duet.training.loop.train`.

    One worker does bit for bit what the loop does in this process. More than one see the same batches, and differ in
    their dropout and their sampled negatives.

    Args:
        config: The run.
        data: The data it names.
        folder: Where the run lives; all workers must see it there.
        workers: How many.
        threads: CPU threads of each; 0 divides those of this process among them.
        observer: Whom to tell, in this process.

    Raises:
        TooManyWorkers: If the run has stages, and there is more than one.
        LostWorkers: If workers died more than ``FAILURES`` times.
        DuetError: What the loop raises.
        OSError: If the first worker cannot write the run folder.
    """
    folder, observer = folder.absolute(), observer or Observer()
    if workers > 1 and config.optimisation.schedule != "joint":
        raise TooManyWorkers(workers=workers, schedule=config.optimisation.schedule)
    task_of(config, data)
    _wait_for_lock(folder)
    with lock(folder):
        claim(folder, config, data)
    news = ray.remote(_News).options(num_cpus=0).remote()
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "config": config,
            "data": ray.put(data),
            "folder": folder,
            "threads": threads or max(1, torch.get_num_threads() // workers),
            "news": news,
        },
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="run",
            storage_path=str(folder / _STORAGE),
            failure_config=FailureConfig(max_failures=FAILURES),
        ),
    )
    try:
        lost = _watch(trainer, news, observer)
    finally:
        shutil.rmtree(folder / _STORAGE, ignore_errors=True)
    progress = read_progress(folder)
    if lost is not None:
        raise LostWorkers(workers=workers, path=folder, epoch=progress.epoch, reason=lost)
    return progress


class _News:
    """What the first worker says, until the process that watches asks; an actor of its own."""

    def __init__(self) -> None:
        self._step: tuple[int, int, int] | None = None
        self._epochs: deque[tuple[Epoch, Progress]] = deque(maxlen=_MOST_EPOCHS)
        self._error: Exception | None = None

    def step(self, *step: int) -> None:
        self._step = (step[0], step[1], step[2])

    def epoch(self, epoch: Epoch, progress: Progress) -> None:
        self._epochs.append((epoch, progress))

    def fail(self, error: Exception) -> None:
        self._error = error

    def take(self) -> tuple[list[tuple[Epoch, Progress]], tuple[int, int, int] | None, Exception | None]:
        epochs, step = list(self._epochs), self._step
        self._epochs.clear()
        self._step = None
        return epochs, step, self._error


def _watch(trainer: Any, news: Any, observer: Observer) -> str | None:
    """Pass on what happens until the end; return why workers were lost, if they were."""
    lost: list[str] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # Ray Train raises what a worker raised, and its own
            lost.append(_reason(error))

    # not in this thread: there Ray Train would answer Ctrl-C itself, and end the process as if all were well
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while True:
        is_over = not thread.is_alive()
        epochs, step, error = ray.get(news.take.remote())
        for epoch, progress in epochs:
            observer.on_epoch(epoch, progress)
        if step is not None:
            observer.on_step(*step)
        if error is not None:
            raise error
        if is_over:
            return lost[0] if lost else None
        thread.join(_WATCH_S)


def _reason(error: Exception) -> str:
    """Return the first line of what a worker said, which Ray keeps by rank."""
    failures = getattr(error, "worker_failures", None) or {}
    cause = next(iter(failures.values()), error)
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(cause).__name__


def _work(options: dict[str, Any]) -> None:
    """Train as one of the workers; Ray Train calls this in each of them, and again after one has died."""
    torch.set_num_threads(options["threads"])
    config, folder, news = options["config"], options["folder"], options["news"]
    # Ray shares arrays between processes, read-only
    data = copy.deepcopy(ray.get(options["data"]))
    size, rank = get_context().get_world_size(), get_context().get_world_rank()
    workers = ALONE if size == 1 else Together()
    observer = (
        Observer(_Sometimes(news), lambda *finished: ray.get(news.epoch.remote(*finished))) if rank == 0 else None
    )
    try:
        with ExitStack() as held:
            if rank == 0:
                # those that were killed may not be dead yet
                _wait_for_lock(folder)
                held.enter_context(lock(folder))
            train_run(config, data, folder, observer=observer, locked=True, workers=workers)
    except (DuetError, OSError) as error:
        # the same would happen again: it is told instead of raised, and the process that watches stops the others
        ray.get(news.fail.remote(error))


class _Sometimes:
    """Tells of steps, as often as somebody may look, and never waits for an answer."""

    def __init__(self, news: Any) -> None:
        self._news, self._next = news, 0.0

    def __call__(self, *step: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _STEP_S
            self._news.step.remote(*step)


def _wait_for_lock(folder: Path) -> None:
    """Give a worker of a killed process the time to die; whoever holds the folder longer is no such one."""
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while time.monotonic() < deadline:
        with try_lock(folder) as holder:
            if holder is None or holder == f"process {os.getpid()}":
                return
        time.sleep(_LOCK_POLL_S)
