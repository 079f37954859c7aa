"""``duet data``: write a data set, split as we split it, for other people's programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from app.commands.train import Assignments, ConfigArgument

app = typer.Typer(no_args_is_help=True, help="Write a data set, split as here, for other programs.")


@app.callback()
def data() -> None:
    """Write a data set, split as here, for other programs."""


@app.command()
def export(
    config: ConfigArgument = None,
    source: Annotated[
        str | None,
        typer.Option("--data", help="`synthetic` or the path of a log; overrides the configuration. docs/data.md."),
    ] = None,
    form: Annotated[
        Literal["duet-authors"], typer.Option("--format", help="duet-authors: user;target;trigger;click;label.")
    ] = "duet-authors",
    out: Annotated[Path, typer.Option(help="An empty or new folder for the files.")] = Path("export"),
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the configuration's seed.")] = None,
    settings: Assignments = None,
) -> None:
    """Write the split of a configuration as the DUET authors' released program reads it.

    The users, items and candidates are those of our sampled metrics. `--set backbone.length=10` gives the authors'
    sample length, `--set optimisation.negatives=4` their negatives.
    """
    from rich.console import Console

    from app.commands.train import load_data, resolve_config
    from duet.evaluation.authors_export import export_for_authors

    console = Console(stderr=True, markup=False)
    chosen = resolve_config(config, [*(settings or []), *([f"seed={seed}"] * (seed is not None))], data=source)
    loaded = load_data(chosen.data, seed=chosen.seed)
    console.print(f"{loaded.name}: {loaded.summary}.")
    written = export_for_authors(
        chosen, loaded, out, on_file=lambda name: console.print(f"Writing {out / name}", soft_wrap=True)
    )
    told = ", ".join(f"{name} {count:,} lines" for name, count in written.lines.items())
    typer.echo(f"Wrote {out}: {told}. In the authors' configuration: id_vocab {written.vocabulary}.")
