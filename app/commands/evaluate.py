"""``duet evaluate``: rank held-out items with trained runs and compare variants, seed by seed and user by user."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer


def evaluate(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Folders that `duet train` wrote, of one data set.")
    ],
    part: Annotated[
        Literal["test", "validation"], typer.Option(help="Which held-out item: the last, or the one before.")
    ] = "test",
    data: Annotated[str | None, typer.Option(help="Where the runs' data lie now, if they were moved.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the comparison as JSON to this file.")] = None,
) -> None:
    """Compare trained runs on held-out items: full catalogue and 1 against 99; differences to `static` with intervals.

    Runs that differ in nothing but the seed are averaged. The table is Markdown, ready for a document.
    """
    from rich.console import Console

    from app.commands.progress import bar
    from app.commands.train import load_data
    from duet.evaluation.comparison import compare, evaluate_run, to_markdown
    from duet.evaluation.provenance import provenance
    from duet.training.checkpoint import read_run_config

    console = Console(stderr=True)
    evaluated = []
    loaded = {}
    with bar(console) as progress:
        task = progress.add_task("Ranking", total=len(runs))
        for run in runs:
            config = read_run_config(run)
            # a log does not depend on the seed, the synthetic world does
            key = (config.data, config.seed if config.data.source.startswith("synthetic") else 0)
            if key not in loaded:
                loaded[key] = load_data(config.data, seed=config.seed, source=data)
            evaluated += evaluate_run(run, loaded[key], part)
            progress.advance(task)
    rows = compare(evaluated)
    typer.echo(to_markdown(rows))
    if out is not None:
        log = next(iter(loaded.values()))
        document = {
            "dataset": log.name,
            "users": len(evaluated[0].users),
            "items": log.item_count,
            "part": part,
            "candidates": evaluated[0].candidates,
            "rows": [asdict(row) for row in rows],
            "configurations": {
                run.label: run.config.model_dump(mode="json", exclude={"data": {"source"}, "seed": True})
                for run in evaluated
            },
            **provenance(),
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        console.print(f"Wrote {out}.")
