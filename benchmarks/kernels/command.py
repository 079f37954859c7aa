"""Time of every operation of ``kernels/`` beside plain PyTorch (eager) and torch.compile of it (compile).

    python -m benchmarks kernels --threads 1 --csv benchmarks/records/kernels-cpu.csv --plots plots

Results are compared with ours first; a contender that computes something else stops the run. Then all are timed in
turns: median, quantiles 20 % and 80 %, and the median over the rounds of the ratio to ours. On a CUDA accelerator the
table adds achieved bandwidth (bytes that must move / time) as a share of a copy measured in the same run, and launches.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from app.commands.progress import bar
from benchmarks.command_line import parser_of
from benchmarks.kernels import apply_low_rank, compose_weights, host_generation, quantize_factors, synthesize_factors
from benchmarks.kernels.case import OURS, Case
from benchmarks.kernels.plots import draw
from benchmarks.kernels.record import Place, Row, append, rows_of
from benchmarks.kernels.tile_tuning import tune
from benchmarks.kernels.timing import CONTENDERS, NOT_AVAILABLE, QUICK, Pace, copy_bandwidth, issue_rate, measure
from kernels.tuning import TUNING_FILE

OPERATIONS: dict[str, Callable[..., Iterator[Case]]] = {
    "synthesize_factors": synthesize_factors.cases,
    "quantize_factors": quantize_factors.cases,
    "compose_weights": compose_weights.cases,
    "host_generation": host_generation.cases,
    "apply_low_rank": apply_low_rank.cases,
}


def main(arguments: Sequence[str]) -> None:
    """Measure, print a table an operation, append to a CSV file and draw plots if asked to."""
    options = _parser().parse_args(arguments)
    console = Console()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.tune:
        if device.type != "cuda":
            sys.exit(
                "Expected a CUDA accelerator for --tune: what it tries is how launches on one are cut, "
                "and this machine has none. Run it where torch.cuda.is_available() is true."
            )
        tune(device, TUNING_FILE, console)
        return
    pace = QUICK if options.quick else Pace()
    limits = (
        {"copy_gb_s": copy_bandwidth(device, pace), "issue_rate": issue_rate(device)} if device.type == "cuda" else {}
    )
    place = Place.here(device, options.threads, **limits)
    console.print(_heading(place), highlight=False)
    rows: list[Row] = []
    for operation in options.operations:
        cases = list(OPERATIONS[operation](device, quick=options.quick))
        measured = _measure_all(cases, options.contenders, pace, device, place, console)
        console.print(_table(operation, measured, options.contenders, is_accelerated=device.type == "cuda"))
        if options.csv is not None:
            append(options.csv, measured)
        rows += measured
    if options.plots is not None:
        for path in draw(rows, options.plots):
            console.print(f"{path}", highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("kernels", __doc__)
    parser.add_argument("--threads", type=int, default=1, help="threads of one operation on the host (default: 1)")
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS), help="default: all")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="default: all; ours always runs"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="append a row a contender and case to FILE")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw an SVG an operation into DIR")
    parser.add_argument("--quick", action="store_true", help="a few tiny cases in a few rounds: does it run at all?")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="instead: try tile limits and elements per thread, and write the best for this accelerator into "
        "kernels/tuning.json (CUDA only)",
    )
    return parser


def _heading(place: Place) -> str:
    """Say where this is measured."""
    copy = f", copies {place.copy_gb_s:,.0f} GB/s" if place.copy_gb_s else ""
    threads = f"{place.threads} thread{'s' if place.threads > 1 else ''}"
    return (
        f"{place.host}, {threads}; accelerator: {place.accelerator}{copy}; "
        f"torch {place.torch_version}, triton {place.triton_version}; commit {place.commit}"
    )


def _measure_all(
    cases: Sequence[Case], wanted: Sequence[str], pace: Pace, device: torch.device, place: Place, console: Console
) -> list[Row]:
    rows: list[Row] = []
    with bar(console) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=f"{case.operation}, {case.name}, B = {case.batch}")
            rows += rows_of(case, measure(case, wanted, pace, device), place)
            progress.advance(task)
    return rows


def _table(operation: str, rows: Sequence[Row], wanted: Sequence[str], *, is_accelerated: bool) -> Table:
    """Lay out the medians of an operation, a line a case, with the ratio to ours beside every other contender."""
    contenders = [name for name in CONTENDERS if name == OURS or name in wanted]
    table = Table(title=operation, title_justify="left", title_style="bold")
    table.add_column("case")
    table.add_column("N" if operation == "apply_low_rank" else "B", justify="right")
    for name in contenders:
        table.add_column(f"{name} µs", justify="right")
        if name != OURS:
            table.add_column("x ours", justify="right")
    if is_accelerated:
        for name in ("GB/s", "of copy", "launches"):
            table.add_column(name, justify="right")
    of_case: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        of_case.setdefault((row.case, row.B), {})[row.contender] = row
    for (case, batch), found in of_case.items():
        cells = [case, batch]
        for name in contenders:
            row = found[name]
            cells.append(row.median_us)
            cells += [] if name == OURS else ["" if row.median_us == NOT_AVAILABLE else row.ratio_to_ours]
        ours = found[OURS]
        table.add_row(*cells, *([ours.gb_s, ours.share_of_copy, ours.launches] if is_accelerated else []))
    return table
