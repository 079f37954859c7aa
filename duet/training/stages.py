"""The stages of a run: one where everything is trained jointly; two where the Universal Meta Network comes first.

    joint    every step draws what the devices hold: the shared parameters, or those of a head
    staged   1  the Universal Meta Network alone, until its own validation stops improving
             2  from its best epoch on the generator, with the Universal Meta Network frozen or slower

Each stage has its own epochs, patience and warm-up. The second begins with the checkpoint that ends the first.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from duet.networks.duet_network import SHARED, Served
from duet.training import checkpoint
from duet.training.checkpoint import Progress
from duet.training.config import TrainingConfig


def is_first_of_two(config: TrainingConfig, progress: Progress) -> bool:
    """Tell whether the Universal Meta Network is trained alone now."""
    return config.optimisation.schedule == "staged" and progress.meta_epochs == 0


def is_over(config: TrainingConfig, progress: Progress) -> bool:
    """Tell whether the stage at hand has had its epochs, or has not improved for too long."""
    options = config.optimisation
    return (
        progress.epoch - progress.meta_epochs >= options.max_epochs
        or progress.epoch - progress.best_epoch >= options.patience
    )


def trained(config: TrainingConfig, progress: Progress, served: tuple[Served, ...]) -> tuple[Served, ...]:
    """Return what the devices may hold in this stage, of all that a network serves."""
    return (SHARED,) if is_first_of_two(config, progress) else served


def shared_share(config: TrainingConfig, progress: Progress) -> float:
    """Return the share of the steps that train the shared classifier: none where it is frozen."""
    return 0.0 if _is_frozen(config, progress) else config.optimisation.shared_share


def learning_rates(config: TrainingConfig, progress: Progress) -> tuple[float, float]:
    """Return the learning rates of the Universal Meta Network and of everything else."""
    options = config.optimisation
    meta = options.meta_learning_rate if _is_second_of_two(config, progress) else 1.0
    return meta * options.learning_rate, options.learning_rate


def prepare(config: TrainingConfig, progress: Progress, network: nn.Module) -> None:
    """Freeze what the stage leaves as it is."""
    network.meta.requires_grad_(not _is_frozen(config, progress))


def begin_second(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> Progress:
    """Go back to the best Universal Meta Network, forget the optimiser's memory, and return where the run stands."""
    checkpoint.load_best(folder, network)
    optimizer.state.clear()
    return replace(
        progress, meta_epochs=progress.epoch, meta_steps=progress.step, best_epoch=progress.epoch, best_value=-1.0
    )


def _is_second_of_two(config: TrainingConfig, progress: Progress) -> bool:
    return config.optimisation.schedule == "staged" and not is_first_of_two(config, progress)


def _is_frozen(config: TrainingConfig, progress: Progress) -> bool:
    return _is_second_of_two(config, progress) and config.optimisation.meta_learning_rate == 0
