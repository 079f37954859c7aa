"""Checkpoints of a run: safetensors for every tensor, JSON for the rest, each written whole or not at all.

A run folder holds ``config.yaml``, ``data.json`` (which data), ``history.jsonl`` (an epoch a line),
``best.safetensors``, ``last.safetensors`` (with the optimiser), ``state.json`` and TensorBoard scalars.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from duet.protocol.errors import UnusableRun
from duet.training.config import TrainingConfig, difference, read_config

CONFIG, DATA, BEST, LAST, STATE, HISTORY = (
    "config.yaml",
    "data.json",
    "best.safetensors",
    "last.safetensors",
    "state.json",
    "history.jsonl",
)


class Fingerprinted(Protocol):
    """Data that a run can be held to."""

    @property
    def name(self) -> str:
        """What people call them."""

    def fingerprint(self) -> str:
        """Return a hash that is equal for data that lead to the same training."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured.

    Attributes:
        epoch: Number, from 1.
        loss: Mean training loss.
        validation: The task's metric on validation data, by what is served (``shared``, ``factors-r4``, ``full``).
        value: What selection looks at: the mean over the heads being trained.
        train_s: Time of the training pass.
        validation_s: Time of the validation.
        positions: Trained positions.
    """

    epoch: int
    loss: float
    validation: dict[str, float]
    value: float
    train_s: float
    validation_s: float
    positions: int


@dataclass(frozen=True)
class Progress:
    """Where a run stands after an epoch.

    Attributes:
        epoch: Epochs done.
        step: Optimiser steps done.
        best_epoch: Epoch of ``best.safetensors``.
        best_value: Its validation metric.
        seconds: Training and validation time so far, over all starts.
        finished: Early stopping or the last epoch was reached.
        meta_epochs: Epochs of the first stage of a staged run, once it is over.
        meta_steps: Optimiser steps of it.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_value: float = -1.0
    seconds: float = 0.0
    finished: bool = False
    meta_epochs: int = 0
    meta_steps: int = 0


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part, even if the machine stops."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_last(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write everything that resuming needs: tensors and progress in one file, and the progress again as JSON."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for parameter, state in optimizer.state.items():
        tensors |= {f"optimizer.{names[id(parameter)]}.{key}": value for key, value in state.items()}
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(asdict(progress))
    write_atomically(folder / LAST, save(contiguous, metadata={"epoch": str(progress.epoch), "progress": text}))
    write_atomically(folder / STATE, text.encode())


def resume_last(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Load network, optimiser and progress from ``last.safetensors`` in place; catch ``state.json`` up if it is behind.

    Raises:
        UnusableRun: If the checkpoint is damaged or belongs to another configuration.
    """
    progress, tensors = read_progress(folder), _read(folder / LAST)
    metadata = _metadata(folder / LAST)
    if metadata.get("epoch") != str(progress.epoch):  # stopped between the two files
        progress = _progress(metadata.get("progress", ""), folder / LAST)
        write_atomically(folder / STATE, json.dumps(asdict(progress)).encode())
    own = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    _load_into(network, own, folder / LAST)
    for name, parameter in network.named_parameters():
        prefix = f"optimizer.{name}."
        state = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        if state:
            optimizer.state[parameter] = state
    return progress


def read_progress(folder: Path) -> Progress:
    """Return where a run stands; a folder without ``state.json`` has not finished an epoch."""
    try:
        text = (folder / STATE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return Progress()
    except NotADirectoryError as error:
        raise UnusableRun(path=folder, reason="it is a file", remedy="Name another folder for the run.") from error
    except (OSError, ValueError) as error:
        raise _unreadable(folder / STATE, error) from error
    return _progress(text, folder / STATE)


def record_epoch(folder: Path, epoch: Epoch) -> None:
    """Write an epoch into ``history.jsonl``; what a stopped run left there of this epoch or a later one goes."""
    path, kept = folder / HISTORY, []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        with suppress(ValueError, TypeError, KeyError):  # half a line
            if json.loads(line)["epoch"] < epoch.epoch:
                kept.append(line)
    write_atomically(path, "".join(f"{line}\n" for line in [*kept, json.dumps(asdict(epoch))]).encode())


def read_history(folder: Path) -> list[Epoch]:
    """Return what each epoch of a run measured, oldest first.

    Raises:
        UnusableRun: If the history cannot be read.
    """
    try:
        return [Epoch(**json.loads(line)) for line in (folder / HISTORY).read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(folder / HISTORY, error) from error


def load_best(folder: Path, network: nn.Module) -> None:
    """Load the weights of the best epoch in place.

    Raises:
        UnusableRun: If there are none yet, or they do not fit the network.
    """
    _load_into(network, _read(folder / BEST), folder / BEST)


def claim_data(folder: Path, data: Fingerprinted) -> None:
    """Note which data a run is trained on, or check that they still are the same.

    Raises:
        UnusableRun: If the run belongs to other data.
    """
    path = folder / DATA
    if not path.exists():
        known = {"name": data.name, "sha256": data.fingerprint()}
        write_atomically(path, json.dumps(known).encode())
    check_data(folder, data)


def check_data(folder: Path, data: Fingerprinted) -> None:
    """Check that a run was trained on these data.

    Raises:
        UnusableRun: If it was not, or does not say.
    """
    path = folder / DATA
    try:
        known = json.loads(path.read_text())
        name, sha256 = str(known["name"]), known["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error
    if sha256 != data.fingerprint():
        raise UnusableRun(
            path=folder,
            reason=f"it was trained on {name} with other content than {data.name} has now",
            remedy="Use the data it was trained on, or train in a new folder.",
        )


def check_config(folder: Path, config: TrainingConfig, *, known: TrainingConfig | None = None) -> None:
    """Check that a run folder was started with this configuration, or with what is known to be meant by it.

    Raises:
        UnusableRun: If it was not, or is no run.
    """
    different = difference(known or read_run_config(folder), config)
    if different is not None:
        raise UnusableRun(
            path=folder,
            reason=f"it holds a run with another configuration ({different})",
            remedy="Choose another folder, or delete this one to start over.",
        )


def read_run_config(folder: Path) -> TrainingConfig:
    """Return the configuration a run folder was started with.

    Raises:
        UnusableRun: If the folder is not a run.
    """
    if not (folder / CONFIG).is_file():
        raise UnusableRun(
            path=folder, reason=f"it has no {CONFIG}", remedy="Name the folder that `duet train` wrote, or train first."
        )
    return read_config(folder / CONFIG)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except FileNotFoundError as error:
        raise UnusableRun(
            path=path, reason="there is no such checkpoint", remedy="Let `duet train` finish at least one epoch."
        ) from error
    except (OSError, SafetensorError) as error:
        raise UnusableRun(path=path, reason=f"it is damaged ({error})", remedy="Train again.") from error


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _progress(text: str, path: Path) -> Progress:
    try:
        return Progress(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UnusableRun:
    return UnusableRun(path=path, reason=f"it cannot be read ({error})", remedy="Delete the folder and train again.")


def _load_into(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    expected = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    received = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if expected != received:
        different = sorted(name for name in expected | received if expected.get(name) != received.get(name))
        raise UnusableRun(
            path=path,
            reason=f"its tensors do not fit the configured network; first difference: {different[0]}: "
            f"expected {expected.get(different[0])}, got {received.get(different[0])}",
            remedy="Use the data and configuration the run was started with, or a new folder.",
        )
    network.load_state_dict(tensors)
