"""The training loop: all positions of a window in one pass, selection on validation, resumable after every epoch."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from duet.networks.duet_network import SHARED, Served
from duet.protocol.errors import DivergedTraining, UnusableRun
from duet.training import checkpoint, stages
from duet.training.checkpoint import Epoch, Progress
from duet.training.config import TrainingConfig
from duet.training.networks import build_network
from duet.training.objectives import objective
from duet.training.run_lock import lock
from duet.training.tasks import Data, Task, task_of
from duet.training.workers import ALONE, Workers

WARM_UP_STEPS = 50
SMALLEST_BATCH = 16


@dataclass(frozen=True)
class Observer:
    """Whom the loop tells: after every step (epoch, done and total steps of it) and after every epoch."""

    on_step: Callable[[int, int, int], None] = lambda epoch, done, total: None
    on_epoch: Callable[[Epoch, Progress], None] = lambda epoch, progress: None


def train(
    config: TrainingConfig,
    data: Data,
    folder: Path,
    *,
    observer: Observer | None = None,
    locked: bool = False,
    workers: Workers = ALONE,
) -> Progress:
    """Train one run into a folder, or go on where it stopped.

    The weights of the best validation epoch end up in ``best.safetensors``. Randomness of an epoch depends on the seed
    and the epoch alone, so a resumed run repeats what an uninterrupted one does.

    Args:
        config: The run.
        data: The data it names.
        folder: Where the run lives.
        observer: Whom to tell.
        locked: The caller holds the folder's lock already (:mod:`duet.training.run_lock`).
        workers: Who trains; each of them calls this with the same arguments, and the first alone locks and writes.

    Raises:
        UnusableRun: If the folder holds a run with another configuration or other data, or a damaged one, or another
            process is writing it.
        DivergedTraining: If the loss is no longer finite; the last good checkpoint stays.
        DatasetTooSmall: If nothing can be trained or validated.
        InvalidData: If the backbone is not for such data.
    """
    task = task_of(config, data)
    with nullcontext() if locked or workers.rank else lock(folder):
        if workers.rank == 0:
            claim(folder, config, data)
        return _train(config, task, folder, observer or Observer(), workers)


def _train(config: TrainingConfig, task: Task, folder: Path, observer: Observer, workers: Workers) -> Progress:
    torch.manual_seed(config.seed)
    network = build_network(config, task.outputs)
    optimizer = _optimizer(config, network)
    progress = Progress()
    if any((folder / name).exists() for name in (checkpoint.STATE, checkpoint.LAST)):
        progress = checkpoint.resume_last(folder, network, optimizer)
        # more epochs may be asked for than before
        progress = replace(progress, finished=stages.is_over(config, progress))
    if workers.rank:
        while not progress.finished:
            _, progress = _epoch(config, task, network, optimizer, progress, observer, workers)
        return progress
    with SummaryWriter(str(folder / "tensorboard"), purge_step=progress.epoch + 1) as scalars:
        while not progress.finished:
            first_of_two = stages.is_first_of_two(config, progress)
            stages.prepare(config, progress, network)
            epoch, progress = _epoch(config, task, network, optimizer, progress, observer, workers)
            if progress.best_epoch == epoch.epoch:
                checkpoint.write_atomically(folder / checkpoint.BEST, save(network.state_dict()))
            if first_of_two and stages.is_over(config, progress):
                progress = stages.begin_second(folder, network, optimizer, progress)
            checkpoint.record_epoch(folder, epoch)
            checkpoint.save_last(folder, network, optimizer, progress)
            if progress.meta_epochs == progress.epoch:
                # its generator has not been trained: not to be taken for the best of the run
                (folder / checkpoint.BEST).unlink()
            scalars.add_scalar("loss/train", epoch.loss, epoch.epoch)
            scalars.add_scalar("speed/positions_per_s", epoch.positions / epoch.train_s, epoch.epoch)
            for served, value in epoch.validation.items():
                scalars.add_scalar(f"validation_{task.metric}/{served}", value, epoch.epoch)
            observer.on_epoch(epoch, progress)
    return progress


def _optimizer(config: TrainingConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Return an optimiser of one or two groups: the Universal Meta Network, and what generates or conditions."""
    meta = {name: value for name, value in network.named_parameters() if name.startswith("meta.")}
    others = [value for name, value in network.named_parameters() if name not in meta]
    options, own = config.optimisation, config.generator.weight_decay
    optimizer = torch.optim.AdamW(
        meta.values(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    if others:
        optimizer.add_param_group({"params": others, "weight_decay": options.weight_decay if own is None else own})
    return optimizer


def claim(folder: Path, config: TrainingConfig, data: Data) -> None:
    """Make a locked folder this run's, or check that it already is.

    Raises:
        UnusableRun: If it is another one's, or holds something else.
    """
    _claim_config(folder, config)
    checkpoint.claim_data(folder, data)


def _claim_config(folder: Path, config: TrainingConfig) -> None:
    if not (folder / checkpoint.CONFIG).exists():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UnusableRun(path=folder, reason="it is not empty and not a run", remedy="Choose another folder.")
        checkpoint.write_atomically(folder / checkpoint.CONFIG, config.to_yaml().encode())
        return
    there = checkpoint.read_run_config(folder)
    longer = config.optimisation.max_epochs > there.optimisation.max_epochs
    known = there.with_max_epochs(config.optimisation.max_epochs) if longer else there
    checkpoint.check_config(folder, config, known=known)
    if longer:
        checkpoint.write_atomically(folder / checkpoint.CONFIG, config.to_yaml().encode())


def _epoch(
    config: TrainingConfig,
    task: Task,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    observer: Observer,
    workers: Workers,
) -> tuple[Epoch, Progress]:
    number = progress.epoch + 1
    started = time.perf_counter()
    loss, steps, positions = _train_epoch(config, task, network, optimizer, progress, observer, workers)
    trained = time.perf_counter()
    served = stages.trained(config, progress, network.served)  # type: ignore[arg-type]
    measured = tuple(dict.fromkeys((*served, SHARED)))
    values = workers.spread([partial(task.validate, network, parameters) for parameters in measured])
    validation = dict(zip(map(str, measured), values, strict=True))
    value = float(np.mean([validation[str(parameters)] for parameters in served]))
    finished = time.perf_counter()
    epoch = Epoch(number, loss, validation, value, trained - started, finished - trained, positions)
    better = value > progress.best_value
    best_epoch = number if better else progress.best_epoch
    after = replace(
        progress,
        epoch=number,
        step=progress.step + steps,
        best_epoch=best_epoch,
        best_value=value if better else progress.best_value,
        seconds=progress.seconds + finished - started,
    )
    is_last = not stages.is_first_of_two(config, progress) and stages.is_over(config, after)
    return epoch, replace(after, finished=is_last)


def _train_epoch(
    config: TrainingConfig,
    task: Task,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    observer: Observer,
    workers: Workers,
) -> tuple[float, int, int]:
    """Run one pass over all training positions; return mean loss, steps and positions."""
    options, number = config.optimisation, progress.epoch + 1
    inputs, targets = task.examples(number)
    positions, usual = int((targets != 0).sum()), config.backbone.length
    # as many positions a step whatever the length of a window, which in a long one are mostly padding
    most = max(1, int(options.batch_size * usual / max(usual, positions / len(inputs))))
    size = min(most, max(SMALLEST_BATCH, len(inputs) // options.least_steps))
    steps = math.ceil(len(inputs) / size)
    choices = _served_choices(config, network, progress, steps)
    rates = stages.learning_rates(config, progress)
    # what one process draws is drawn by the first worker too
    drawn = config.seed * 100_003 + number + workers.rank * 1_000_000_007
    torch.manual_seed(drawn)
    negatives = torch.Generator().manual_seed(drawn)
    network.train()
    total = 0.0
    for index in range(steps):
        rows = slice(index * size, (index + 1) * size)
        warmth = min(1.0, (progress.step - progress.meta_steps + index + 1) / WARM_UP_STEPS)
        for group, rate in zip(optimizer.param_groups, rates, strict=False):
            group["lr"] = rate * warmth
        optimizer.zero_grad(set_to_none=True)
        served, lag = next(choices)
        batch, own = targets[rows], targets[rows][workers.rank :: workers.size]
        share = torch.count_nonzero(own) / torch.count_nonzero(batch)
        loss = None
        if share:
            loss = (
                share
                * objective(
                    network,  # type: ignore[arg-type]
                    inputs[rows][workers.rank :: workers.size],
                    own,
                    served,
                    options,
                    item_count=task.outputs,
                    generator=negatives,
                    lag=lag,
                    delta_penalty=config.generator.delta_penalty,
                )
            )
        value = workers.backward(network, loss)
        if not math.isfinite(value):
            raise DivergedTraining(step=progress.step + index + 1, loss=value)
        nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
        optimizer.step()
        total += value
        observer.on_step(number, index + 1, steps)
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        # the last step broke what the next one would have found out, after the checkpoint
        raise DivergedTraining(step=progress.step + steps, loss=math.nan)
    return total / steps, steps, positions


def _served_choices(
    config: TrainingConfig, network: nn.Module, progress: Progress, steps: int
) -> Iterator[tuple[Served, int]]:
    """Draw what the devices hold in each step: shared, or a head; factors of the full rank or, half the time, fewer.

    The random truncation is what makes the factors nested. With each choice comes the age of the parameters in items.
    """
    served = stages.trained(config, progress, network.served)  # type: ignore[arg-type]
    shared_share = stages.shared_share(config, progress)
    rng = np.random.default_rng([config.seed, progress.epoch + 1, 1])
    for _ in range(steps):
        choice = served[int(rng.integers(len(served)))]
        if choice.head is not None and rng.random() < shared_share:
            choice = SHARED
        if choice.head == "factors" and choice.rank > 1 and rng.random() < 0.5:
            choice = Served("factors", int(rng.integers(1, choice.rank)))
        lag = 0
        if choice.head is not None and rng.random() < config.optimisation.stale_share:
            lag = int(rng.integers(1, max(1, config.backbone.length // 2) + 1))
        yield choice, lag
