"""``duet models``: look into the model repository, verify it, and choose the version that is served."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.arguments import ApiKey, ModelsFolder, check_models_folder
from app.commands.rollout_status import served_by, told_pin, told_rollout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from duet.protocol.manifest import RepresentationRecord
    from duet.registry import PublishedVersion, Registry

FOLDER = Path("models")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Name of a published model.")]
Version = Annotated[str | None, typer.Option("--version", help="Name of a version; the active one by default.")]

Folder = Annotated[
    Path | None,
    typer.Option(
        "--models",
        callback=check_models_folder,
        help="As before the subcommand; here it counts more.",
        show_default=False,
    ),
]

app = typer.Typer(no_args_is_help=False, help="List, inspect, verify and switch published models.")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, folder: ModelsFolder = FOLDER) -> None:
    """List, inspect, verify and switch published models. Without a subcommand: list them."""
    context.obj = folder
    if context.invoked_subcommand is None:
        list_models(context)


@app.command("list")
def list_models(context: typer.Context, folder: Folder = None) -> None:
    """List every model with its active version."""
    from rich import print as rich_print
    from rich.table import Table

    from duet.protocol.errors import DuetError

    registry = _registry(context, folder)
    names = registry.models()
    if not names:
        typer.echo(f"No model is published in {registry.root}. Publish one: duet publish RUN --models {registry.root}")
        return
    table = Table("model", "active version", "versions", box=None, header_style="bold", pad_edge=False)
    for name in names:
        try:
            active = registry.active(name)
        except DuetError as error:
            active = f"none: {error}"
        table.add_row(name, active, str(len(registry.versions(name))))
    rich_print(table)


@app.command()
def show(context: typer.Context, model: ModelArgument, version: Version = None, folder: Folder = None) -> None:
    """Show what a version is, every representation with its bytes and measured quality, and the model card."""
    from rich import print as rich_print

    registry = _registry(context, folder)
    published = registry.open(model, version)
    others = [name for name in registry.versions(model) if name != published.version]

    is_active = published.version == registry.active(model)
    typer.echo(f"{model} {published.version}" + (" (active)" if is_active else ""))
    for name, value in _facts(published).items():
        typer.echo(f"  {name:<12} {value}")
    if others:
        typer.echo(f"  {'others':<12} {', '.join(others)}")
    typer.echo("")
    rich_print(representations_table(published.manifest.representations))
    typer.echo("")
    typer.echo(published.model_card() or f"Version {published.version} was published without a model card.")


@app.command()
def verify(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this model.")] = None,
    folder: Folder = None,
) -> None:
    """Check every version: files against hashes, then shapes and golden outputs on this machine.

    Exit code 2 if one is not as published, or none is there.
    """
    from deployments.composer import Composer
    from deployments.encoder import Encoder
    from deployments.parameter_generator import ParameterGenerator
    from duet.protocol.errors import DuetError

    registry = _registry(context, folder)
    damaged = 0
    names = [model] if model else registry.models()
    if not names:
        typer.echo(f"duet: Expected a published model in {registry.root}, but there is none to verify.", err=True)
        raise typer.Exit(2)
    stages = Encoder(registry.root), ParameterGenerator(registry.root), Composer(registry.root)
    for name in names:
        for version in registry.versions(name):
            try:
                files = registry.open(name, version).manifest.files.values()
                for stage in stages:
                    stage.prepare(name, version)
                typer.echo(f"ok       {name} {version}: {len(files)} files, {_size(sum(file.bytes for file in files))}")
            except DuetError as error:
                damaged += 1
                typer.echo(f"damaged  {name} {version}: {error}")
    if damaged:
        raise typer.Exit(2)


@app.command()
def activate(
    context: typer.Context,
    model: ModelArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION")],
    canary: Annotated[
        float | None,
        typer.Option("--canary", metavar="PERCENT", help="Only to this share of the devices, above 0 and below 100."),
    ] = None,
    folder: Folder = None,
) -> None:
    """Serve this version from now on. A running server follows within seconds."""
    registry = _registry(context, folder)
    if canary is None:
        registry.activate(model, version)
        typer.echo(f"{model} {version} is active.")
        return
    registry.start_canary(model, version, canary)
    typer.echo(f"{model} {version} goes to {canary:g} % of the devices, {registry.active(model)} to the others.")


@app.command()
def rollback(context: typer.Context, model: ModelArgument, folder: Folder = None) -> None:
    """End the canary; without one, serve the version again that was active before."""
    registry = _registry(context, folder)
    canary = registry.pin(model).canary
    version = registry.rollback(model)
    if canary is None:
        typer.echo(f"{model} {version} is active again.")
    else:
        typer.echo(f"{model} {version} goes to every device again; the canary {canary.version} is ended.")


@app.command()
def status(
    context: typer.Context,
    model: ModelArgument,
    url: Annotated[
        str | None, typer.Option("--url", help="A running server: say as well what each of its gateways serves.")
    ] = None,
    api_key: ApiKey = None,
    folder: Folder = None,
) -> None:
    """Show which version devices are to get, which one is tried beside it, and what became of the last canary.

    With --url also what each gateway of a server really sends. Exit code 1 if one of them does something else.
    """
    registry = _registry(context, folder)
    pin = registry.pin(model)
    for line in told_pin(model, pin):
        typer.echo(line)
    if url is None:
        return
    rollout = served_by(url, model, api_key)
    typer.echo("")
    for line in told_rollout(rollout):
        typer.echo(line)
    wanted = {(pin.version, None if pin.canary is None else (pin.canary.version, pin.canary.percent))}
    serving = {
        (each.version, None if each.canary is None else (each.canary.version, each.canary.percent))
        for each in rollout.gateways
    }
    if rollout.silent or serving != wanted:
        raise typer.Exit(1)


def representations_table(records: "Sequence[RepresentationRecord]") -> "Table":
    """Lay out every representation with its bytes, its measured quality and its download on a slow and a fast link."""
    from rich.table import Table

    from duet.protocol.budget import PROFILES

    links = ("slow-3g", "lte")
    quality = ", ".join(sorted({f"{record.quality.metric}\n{record.quality.split}" for record in records}))
    table = Table("representation", box=None, header_style="bold", pad_edge=False)
    for heading in ("bytes", quality, "interval", *(f"{link}\nms" for link in links)):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in sorted(records, key=lambda record: record.package_bytes):
        low, high = record.quality.interval
        downloads = (PROFILES[link].download_ms(record.package_bytes) for link in links)
        table.add_row(
            str(record.representation),
            f"{record.package_bytes:,}",
            f"{record.quality.value:.4f}",
            f"{low:.4f}-{high:.4f}",
            *(f"{milliseconds:.1f}" for milliseconds in downloads),
        )
    return table


def _registry(context: typer.Context, folder: Path | None) -> "Registry":
    from duet.registry import Registry

    root = (folder or Path(context.obj)).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"Expected the folder of published models at {root.absolute()}, got no such folder. Publish a run there "
            f"with `duet publish RUN --models {root}`, or name another folder with --models."
        )
    return Registry(root)


def _facts(published: "PublishedVersion") -> dict[str, str]:
    manifest = published.manifest
    layers = ", ".join(f"{layer.name} [{layer.outputs}, {layer.inputs}]" for layer in manifest.layers.layers)
    signature = ", ".join(f"{name} {value}" for name, value in manifest.signature.items())
    return {
        "created": manifest.created,
        "digest": published.digest.hex(),
        "task": manifest.task,
        "sample": signature,
        "layers": layers,
        "generator": f"embedding {manifest.embedding_dim}, rank {manifest.rank}, heads {', '.join(manifest.heads)}",
        "training": ", ".join(f"{n} {v}" for n, v in manifest.training.items() if isinstance(v, str | int | float)),
        "files": _size(sum(record.bytes for record in manifest.files.values())),
        "folder": str(published.folder),
    }


def _size(count_bytes: int) -> str:
    return f"{count_bytes / 2**20:.1f} MiB" if count_bytes >= 2**20 else f"{count_bytes / 2**10:.1f} KiB"
