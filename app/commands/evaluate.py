"""``duet evaluate``: rank held-out items with trained runs and compare variants, or run a whole grid of them."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from duet.data.interactions import Interactions
    from duet.data.splits import Part
    from duet.evaluation.grid import Cell
    from duet.evaluation.queue import Places
    from duet.evaluation.record import RunRecord
    from duet.training.config import TrainingConfig


def evaluate(
    run: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN…]", help="Folders that `duet train` wrote, of one data set.")
    ] = None,
    part: Annotated[
        Literal["test", "validation"], typer.Option(help="Which held-out item: the last, or the one before.")
    ] = "test",
    data: Annotated[str | None, typer.Option(help="Where the runs' data lie now, if they were moved.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the comparison as JSON to this file.")] = None,
    grid: Annotated[
        Path | None, typer.Option(help="Instead of runs: a grid file. Trains what it lacks; see docs/experiments.md.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="With --grid: where run folders go.")] = Path("runs"),
    results: Annotated[Path, typer.Option(help="With --grid: where records go.")] = Path("docs/results"),
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves the choice to PyTorch.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="With --grid: run at most this many cells.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="VARIANT", help="With --grid: only this variant. Repeatable.")
    ] = None,
) -> None:
    """Compare trained runs on held-out items: full catalogue and 1 against 99; differences to `static` with intervals.

    Runs that classify are compared by their accuracy on unseen devices. Runs that differ in nothing but the seed are
    averaged. The table is Markdown, ready for a document. With --grid,
    trains and ranks what a grid of experiments still lacks, and leaves a record of each run.
    """
    import torch
    from rich.console import Console

    from duet.evaluation.comparison import compare, to_markdown

    if bool(run) == (grid is not None):
        raise typer.BadParameter("Expected run folders or --grid, got " + ("both." if run else "neither."))
    if grid is None and (limit or only):
        raise typer.BadParameter("--limit and --only need --grid.")
    if grid is not None and part != "test":
        raise typer.BadParameter("Expected --part test with --grid, whose records are of the test items.")
    if threads:
        torch.set_num_threads(threads)
    console = Console(stderr=True, markup=False)
    load = _loader(data)
    if grid is not None:
        from duet.evaluation.queue import Places

        records = _run_grid(grid, Places(runs, results, load), console, data=data, limit=limit, only=only or [])
        if not records:
            return
    elif _classifies(run or []):
        _evaluate_devices(run or [], part, data, out, console)
        return
    else:
        records = _rank(run or [], load, part, console)
    rows = compare(records)
    typer.echo(to_markdown(rows))
    if out is not None:
        _write(out, records, [asdict(row) for row in rows])
        console.print(f"Wrote {out}.", soft_wrap=True)


def _loader(source: str | None) -> "Callable[[TrainingConfig], Interactions]":
    """Return what loads the data of a configuration, each data set once."""
    from app.commands.train import load_data

    loaded: dict[object, Interactions] = {}

    def load(config: "TrainingConfig") -> "Interactions":
        # a log does not depend on the seed, the synthetic world does
        key = (config.data, config.seed if (source or config.data.source).startswith("synthetic") else 0)
        if key not in loaded:
            loaded[key] = load_data(config.data, seed=config.seed, source=source)
        return loaded[key]

    return load


def _rank(
    folders: list[Path], load: "Callable[[TrainingConfig], Interactions]", part: "Part", console: "Console"
) -> "list[RunRecord]":
    from app.commands.progress import bar
    from duet.evaluation.conditions import evaluate_run
    from duet.training.checkpoint import read_run_config

    records = []
    with bar(console) as progress:
        task = progress.add_task("Ranking", total=len(folders))
        for folder in folders:
            records.append(evaluate_run(folder, load(read_run_config(folder)), part))
            progress.advance(task)
    return records


def _classifies(folders: list[Path]) -> bool:
    from duet.training.checkpoint import read_run_config

    return any(read_run_config(folder).task == "classification" for folder in folders)


def _evaluate_devices(
    folders: list[Path], part: "Part", data: str | None, out: Path | None, console: "Console"
) -> None:
    """Compare runs that classify, on the unseen devices of a part."""
    from app.commands.progress import bar
    from app.commands.train import load_source
    from duet.data.digits import DigitDevices
    from duet.evaluation.classification import answer_devices, compare_devices, to_markdown
    from duet.evaluation.provenance import provenance
    from duet.protocol.errors import UnusableRun
    from duet.training.checkpoint import read_run_config

    runs, loaded = [], {}
    with bar(console) as progress:
        task = progress.add_task("Classifying", total=len(folders))
        for folder in folders:
            config = read_run_config(folder)
            if (config.data, config.seed) not in loaded:
                loaded[config.data, config.seed] = load_source(config.data, seed=config.seed, source=data)
            devices = loaded[config.data, config.seed]
            if config.task != "classification" or not isinstance(devices, DigitDevices):
                reason = "it ranks items, and others classify"
                raise UnusableRun(path=folder, reason=reason, remedy="Compare runs of one task.")
            runs.append(answer_devices(folder, devices, part))
            progress.advance(task)
    rows = compare_devices(runs)
    typer.echo(to_markdown(rows))
    if out is not None:
        document = {"dataset": "digits", "part": part, "rows": [row.to_json() for row in rows], **provenance()}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        console.print(f"Wrote {out}.", soft_wrap=True)


def _run_grid(
    path: Path, places: "Places", console: "Console", *, data: str | None, limit: int | None, only: list[str]
) -> "list[RunRecord]":
    """Run what a grid lacks, saying so, and return all records that there are afterwards."""
    from app.commands.progress import TrainingProgress
    from app.commands.train import at_source
    from duet.evaluation.grid import read_grid, write_outline
    from duet.evaluation.queue import chosen, existing_record, run_queue
    from duet.training.checkpoint import read_progress

    grid, cells = read_grid(path)
    if any(cell.config.task != "ranking" for cell in cells):
        # a record holds ranks
        raise typer.BadParameter(
            "Expected a grid of runs that rank items; compare those that classify by their folders."
        )
    wanted = [replace(cell, config=at_source(cell.config, data)) for cell in (chosen(cells, only) if only else cells)]
    missing = sum(existing_record(cell, places) is None for cell in wanted)
    console.print(f"{grid.name}: {len(wanted)} runs, {missing} to do.")
    write_outline(grid, places.results)
    with TrainingProgress(console) as progress:

        def announce(cell: "Cell") -> None:
            done = read_progress(places.run(cell)).epoch
            console.print(f"{cell.run_name}" + (f", going on after epoch {done}" if done else ""))

        for cell, outcome in run_queue(wanted, places, limit=limit, observer=progress.observer, on_cell=announce):
            if isinstance(outcome, str):
                console.print(f"{cell.run_name} is left to {outcome}.")
            else:
                training = outcome.training
                console.print(
                    f"{cell.run_name}: best epoch {training.best_epoch} of {training.epochs}, "
                    f"{training.seconds / 60:.1f} min. Wrote {places.record(cell)}.",
                    soft_wrap=True,
                )
    found = (existing_record(cell, places) for cell in wanted)
    return [record for record in found if record is not None]


def _write(path: Path, records: "list[RunRecord]", rows: list[dict[str, object]]) -> None:
    from duet.evaluation.provenance import provenance

    first = records[0]
    document = {
        "dataset": first.dataset.name,
        "users": first.dataset.evaluated,
        "items": first.dataset.items,
        "part": first.part,
        "candidates": first.candidates,
        "rows": rows,
        "configurations": {
            record.name: record.config.model_dump(mode="json", exclude={"data": {"source"}, "seed": True})
            for record in records
        },
        **provenance(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
