"""Runs what a grid still lacks: train, rank, write the record; resumable, and shared by processes without a server.

A cell is done when its record exists. Before training, a process locks the cell's run folder, so that several queues,
on one machine or on several with one file system, never do the same cell.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from duet.data.interactions import Interactions
from duet.evaluation.conditions import evaluate_run
from duet.evaluation.grid import Cell
from duet.evaluation.record import RunRecord, read_record, write_record
from duet.protocol.errors import InvalidData, UnusableRun
from duet.training.adoption import adopt
from duet.training.checkpoint import CONFIG, check_config
from duet.training.config import TrainingConfig, difference
from duet.training.loop import Observer, train
from duet.training.run_lock import try_lock


@dataclass(frozen=True)
class Places:
    """Where a queue reads and writes.

    Attributes:
        runs: Run folders go to ``<runs>/<grid>/<variant>-s<seed>``.
        results: Records go to ``<results>/<grid>/<variant>-s<seed>.json``.
        load: Returns the data that a configuration names.
    """

    runs: Path
    results: Path
    load: Callable[[TrainingConfig], Interactions]

    def run(self, cell: Cell) -> Path:
        """Return the run folder of a cell."""
        return self.runs / cell.grid / cell.run_name

    def record(self, cell: Cell) -> Path:
        """Return the record of a cell."""
        return self.results / cell.grid / f"{cell.run_name}.json"


def existing_record(cell: Cell, places: Places) -> RunRecord | None:
    """Return the record of a cell, or None if it is still to be made.

    Raises:
        UnusableRun: If the file is damaged, or is of another configuration or other data.
    """
    path = places.record(cell)
    if not path.exists():
        return None
    record = read_record(path)
    different = difference(record.config, cell.config)
    if different is None and record.dataset.sha256 != places.load(cell.config).fingerprint():
        different = f"data: {record.dataset.name} with other content there"
    if different is not None:
        raise UnusableRun(
            path=path,
            reason=f"it is the record of another run than the grid asks for ({different})",
            remedy="Delete it and its run folder to run the cell again, or give the variant another name in the grid.",
        )
    return record


def run_queue(
    cells: Sequence[Cell],
    places: Places,
    *,
    limit: int | None = None,
    observer: Observer | None = None,
    on_cell: Callable[[Cell], None] = lambda cell: None,
) -> Iterator[tuple[Cell, RunRecord | str]]:
    """Run the cells that have no record, in order; those that another process has come again at the end.

    Args:
        cells: What is to be run.
        places: Where.
        limit: Run at most this many.
        observer: Whom the training of a cell tells.
        on_cell: Called with a cell before it is run.

    Yields:
        Each cell that was run with its record, and at last each that is left to others with who has it.

    Raises:
        UnusableRun: If an existing record or run folder does not belong to its cell, before anything runs if that can
            be seen then.
        TrainingError: If a run cannot be trained.
    """
    waiting = [cell for cell in cells if existing_record(cell, places) is None]
    for cell in waiting:
        if (places.run(cell) / CONFIG).exists():
            check_config(places.run(cell), cell.config)
    done = 0
    while waiting and done != limit:
        held: dict[Cell, str] = {}
        advanced = False
        for cell in waiting:
            if done == limit:
                return
            with try_lock(places.run(cell)) as holder:
                if holder is not None:
                    held[cell] = holder
                    continue
                advanced = True
                # another process may have been faster
                if existing_record(cell, places) is not None:
                    continue
                on_cell(cell)
                record = run_cell(cell, places, observer)
            done += 1
            yield cell, record
        waiting = list(held)
        if not advanced:
            yield from held.items()
            return


def run_cell(cell: Cell, places: Places, observer: Observer | None = None) -> RunRecord:
    """Train a cell whose run folder is locked, or go on where it stopped; rank, and write its record."""
    interactions, folder = places.load(cell.config), places.run(cell)
    adopt(folder, cell.config, sorted(folder.parent.glob(f"*-s{cell.config.seed}")))
    train(cell.config, interactions, folder, observer=observer, locked=True)
    record = evaluate_run(folder, interactions, grid=cell.grid, name=cell.variant)
    write_record(places.record(cell).parent, record)
    return record


def chosen(cells: Sequence[Cell], variants: Collection[str]) -> tuple[Cell, ...]:
    """Return the cells of some variants.

    Raises:
        InvalidData: If the grid has no such variant.
    """
    known = {cell.variant: None for cell in cells}
    for variant in variants:
        if variant not in known:
            raise InvalidData(
                path="--only",
                line=None,
                expected=f"variants of the grid ({', '.join(known)})",
                received=variant,
                remedy="Correct the name.",
            )
    return tuple(cell for cell in cells if cell.variant in variants)
