"""``duet publish``: make a trained run a version that can be served, with the quality of all it can answer measured."""

from pathlib import Path
from typing import Annotated

import typer

from app.commands.arguments import ModelsFolder


def publish(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `duet train` wrote.")],
    model: Annotated[str, typer.Option(help="Name of the model; lower-case letters, digits, . _ -")] = "demo",
    version: Annotated[str | None, typer.Option(help="Name of the version; by default the time.")] = None,
    folder: ModelsFolder = Path("models"),
    quality_users: Annotated[int, typer.Option(min=10, help="Measure quality on at most this many users.")] = 1000,
    decoders: Annotated[
        bool, typer.Option(help="Give the decoders to devices that ask: the generator leaves the cloud.")
    ] = True,
    activate: Annotated[bool, typer.Option(help="Serve this version from now on.")] = True,
    data: Annotated[str | None, typer.Option(help="Where the run's data lie now, if they were moved.")] = None,
) -> None:
    """Publish the best epoch of a run. Quality is measured through package bytes and the device's own ONNX graph."""
    from rich.console import Console

    from app.commands.models import representations_table
    from app.commands.progress import bar
    from app.commands.train import load_source
    from duet.publishing import Observer
    from duet.publishing import publish as publish_run
    from duet.registry import Registry
    from duet.training.checkpoint import read_run_config

    console = Console()
    config = read_run_config(run)
    loaded = load_source(config.data, seed=config.seed, source=data)
    registry = Registry(folder)
    served = registry.active(model) if model in registry.models() else None
    if served is not None and not activate:
        # without a pin the newest version would be served
        registry.activate(model, served)
    with bar(console) as progress:
        task = progress.add_task("Publishing", total=None)
        published = publish_run(
            run,
            loaded,
            registry,
            model,
            version=version,
            quality_users=quality_users,
            decoders=decoders,
            observer=Observer(
                on_stage=lambda stage, total: progress.update(
                    task, description=stage, total=total or None, completed=0
                ),
                on_measured=lambda: progress.advance(task),
            ),
        )
    if activate:
        registry.activate(model, published.version)
    console.print(representations_table(published.manifest.representations))
    shared, *others = published.manifest.representations
    if max(other.quality.value for other in others) <= shared.quality.value:
        typer.echo(
            "No representation does better than the shared parameters: devices would gain nothing. Train longer?"
        )
    following = (
        f"duet serve --models {folder}"
        if activate or served is None
        else f"duet models --models {folder} activate {model} {published.version}"
    )
    typer.echo(f"Published {published.folder}. Next: {following}")
