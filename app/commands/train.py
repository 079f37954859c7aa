"""``duet train``: train a run from a configuration, or go on where it stopped."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from duet.data.interactions import Interactions
    from duet.training.config import DataOptions, TrainingConfig
    from duet.training.tasks import Data

METRIC_NAMES = {"ranking": "NDCG@10", "classification": "accuracy"}
"""What a run is selected on, as a person reads it, by task."""

ConfigArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[CONFIG]", help="A YAML configuration; see duet/training/configs. Without one: the defaults."
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. generator.rank=8. Repeatable."),
]


def train(
    config: ConfigArgument = None,
    data: Annotated[
        str | None,
        typer.Option(help="`synthetic`, `digits`, or the path of a log; overrides the configuration. docs/data.md."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="duet, or a baseline: docs/experiments.md.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the configuration's seed.")] = None,
    settings: Assignments = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/CONFIG-MODEL-sSEED.")] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads, of each worker; 0 leaves the choice to PyTorch.")
    ] = 0,
    workers: Annotated[
        int,
        typer.Option(min=0, max=256, help="Processes that share each batch, with Ray Train; 0 trains in this one."),
    ] = 0,
) -> None:
    """Train a run. Repeat the same command to go on with a run that was stopped; nothing is lost but its last epoch.

    With --workers a private Ray is started for the run and stopped with it. Workers that die are started again.
    """
    import torch
    from rich.console import Console

    from app.commands.progress import TrainingProgress
    from duet.training.checkpoint import read_progress
    from duet.training.loop import train as run_training

    if workers:
        _find_ray_train()
    settings = list(settings or [])
    settings += [f"model={model}"] * (model is not None)
    settings += [f"seed={seed}"] * (seed is not None)
    chosen = resolve_config(config, settings, data=data)
    folder = out or Path("runs") / f"{config.stem if config else 'default'}-{chosen.model}-s{chosen.seed}"
    if threads:
        torch.set_num_threads(threads)
    loaded = load_source(chosen.data, seed=chosen.seed)
    typer.echo(f"{loaded.name}: {loaded.summary}. Run: {folder}")
    done = read_progress(folder)
    if done.epoch and not done.finished:
        typer.echo(f"Going on after epoch {done.epoch}.")
    metric = METRIC_NAMES[chosen.task]
    with TrainingProgress(Console(markup=False), metric=metric) as progress:
        if workers:
            from app.training_ray import training_ray

            with training_ray(workers):
                from duet.training.scale_out import train as train_together

                result = train_together(
                    chosen, loaded, folder, workers=workers, threads=threads, observer=progress.observer
                )
        else:
            result = run_training(chosen, loaded, folder, observer=progress.observer)
    is_old = done.finished and done.epoch == result.epoch
    typer.echo(
        f"{'Already finished' if is_old else 'Finished'} after {result.epoch} epochs in {result.seconds:.0f} s. "
        f"Best epoch {result.best_epoch}: validation {metric} {result.best_value:.4f}. Next: duet "
        + (f"publish {folder} --model NAME" if chosen.model == "duet" else f"evaluate {folder}")
    )


def _find_ray_train() -> None:
    """Look for what ``--workers`` needs without importing it: Ray reads its variables when it is imported."""
    from importlib.util import find_spec

    from app.commands import SCALE_OUT

    for library in SCALE_OUT:
        if find_spec(library) is None:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)


def resolve_config(path: Path | None, settings: list[str], *, data: str | None = None) -> "TrainingConfig":
    """Read a configuration and override single settings.

    Args:
        path: The YAML file; None takes the defaults.
        settings: ``key=value`` with dots between levels; the value is YAML.
        data: Source of the data, as it stands; a relative path becomes absolute, so that the run finds it again.

    Raises:
        InvalidData: If the file or a setting cannot be used.
    """
    from duet.protocol.errors import InvalidData
    from duet.training.config import TrainingConfig, override, read_config

    config = read_config(path) if path else TrainingConfig()
    changes = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InvalidData(
                path="--set", line=None, expected="KEY=VALUE", received=setting, remedy="Try --set generator.rank=8."
            )
        changes[key.strip()] = value
    return at_source(override(config, changes), data)


def at_source(config: "TrainingConfig", data: str | None) -> "TrainingConfig":
    """Return the configuration with its data at another place, if one is given, and with an absolute path."""
    from duet.data.loading import absolute_source

    source = absolute_source(config.data.source if data is None else data)
    return config.model_copy(update={"data": config.data.model_copy(update={"source": source})})


def load_source(options: "DataOptions", *, seed: int, source: str | None = None) -> "Data":
    """Load what a configuration names, log or not, or the same data from another place."""
    from duet.data.digits import is_digits, load_digit_devices

    named = options.source if source is None else source
    return load_digit_devices(named, seed=seed) if is_digits(named) else load_data(options, seed=seed, source=source)


def load_data(options: "DataOptions", *, seed: int, source: str | None = None) -> "Interactions":
    """Load the log that a configuration names, or the same one from another place."""
    from duet.data.loading import load

    return load(
        options.source if source is None else source,
        user_column=options.user_column,
        item_column=options.item_column,
        time_column=options.time_column,
        seed=seed,
    )
