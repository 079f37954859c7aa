"""``duet report``: tables and plots of all grids, from the records that their runs left."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Annotated[Path, typer.Argument(help="Folder of the records that `duet evaluate --grid` wrote.")] = Path(
        "docs/results"
    ),
    out: Annotated[
        Path, typer.Option(help="The Markdown document; text around its <!-- grid NAME --> markers stays.")
    ] = Path("docs/results.md"),
) -> None:
    """Write tables of every grid into a document, and its plots beside the records. Trains and ranks nothing."""
    from duet.evaluation.report import write_report

    for grid in write_report(results, out):
        missing = f", {len(grid.missing)} missing: {', '.join(grid.missing)}" if grid.missing else ""
        typer.echo(f"{grid.name}: {len(grid.records)} runs{missing}.")
    typer.echo(f"Wrote {out}.")
