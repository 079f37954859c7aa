"""Plots of what was measured, an SVG an operation: times beside eager on a host, bandwidth on an accelerator.

Read the line of ours against the dark one: eager on a host, what a copy reaches on an accelerator.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.kernels.case import OURS
from benchmarks.kernels.record import NOT_MEASURED, Row
from benchmarks.kernels.timing import NOT_AVAILABLE
from duet.evaluation.plot_style import GRID, HALO, INK, MUTED
from duet.training.checkpoint import write_atomically

COLOURS = {OURS: "#c65d21", "eager": INK, "compile": "#2680c2"}
COLUMNS = 3

Lines = Mapping[str, Sequence[tuple[int, float]]]
"""Points (B, value) by contender."""


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw an operation a file, a panel a case.

    Args:
        rows: What was measured, on one machine.
        folder: Where the files go.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for operation in dict.fromkeys(row.operation for row in rows):
        its = [row for row in rows if row.operation == operation and row.median_us != NOT_AVAILABLE]
        path = folder / f"{operation}.svg"
        write_atomically(path, _svg(_figure(operation, its)))
        paths.append(path)
    return paths


def _figure(operation: str, rows: Sequence[Row]) -> Figure:
    is_accelerated = rows[0].gb_s != NOT_MEASURED
    names = list(dict.fromkeys(row.case for row in rows))
    columns = min(COLUMNS, len(names))
    height = -(-len(names) // columns)
    figure = Figure(figsize=(3.1 * columns + 0.9, 2.35 * height + 1.1), layout="constrained")
    panels = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False)
    batch = "rows N" if operation == "apply_low_rank" else "devices in a batch B"
    what = "achieved GB/s, bytes that must move / time" if is_accelerated else "time in units of eager, lower is faster"
    machine = rows[0].accelerator if is_accelerated else f"{rows[0].host}, threads: {rows[0].threads}"
    figure.suptitle(operation, x=0.01, ha="left", fontsize=13, weight="bold", color=INK)
    figure.supxlabel(f"{batch}; {machine}, torch {rows[0].torch}", x=0.01, ha="left", fontsize=9, color=MUTED)
    figure.supylabel(what, fontsize=9, color=MUTED)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    # the lowest panel of each column names the batches
    for axes in panels.flat[max(0, len(names) - columns) : len(names)]:
        axes.tick_params(labelbottom=True)
    drawn = []
    for axes, name in zip(panels.flat, names, strict=False):
        its = [row for row in rows if row.case == name]
        _style(axes, name, sorted({int(row.B) for row in its}))
        drawn.append((axes, _bandwidth(axes, its) if is_accelerated else _beside_eager(axes, its)))
    # once the limits, which all panels share, are known
    for axes, lines in drawn:
        _name(axes, lines)
    return figure


def _beside_eager(axes: Axes, rows: Sequence[Row]) -> Lines:
    """Draw the time of every contender in units of eager's; without eager in units of ours."""
    yardstick = "eager" if any(row.contender == "eager" for row in rows) else OURS
    ratios = {(row.contender, row.B): float(row.ratio_to_ours) for row in rows}
    lines: Lines = {
        name: [(int(row.B), ratios[name, row.B] / ratios[yardstick, row.B]) for row in rows if row.contender == name]
        for name in COLOURS
        if any(row.contender == name for row in rows)
    }
    _lines(axes, lines)
    axes.yaxis.set_major_formatter(FuncFormatter(_multiple))
    values = [value for points in lines.values() for _, value in points]
    low, high = axes.get_ylim()
    # the panels share their limits, so each may only widen them
    axes.set_ylim(min(low, 0.85 * min(values), 0.45), max(high, 1.2 * max(values), 1.3))
    return lines


def _multiple(value: float, _position: int | None) -> str:
    return f"{value:g}×" if value >= 1 else f"1/{1 / value:g}"


def _bandwidth(axes: Axes, rows: Sequence[Row]) -> Lines:
    """Draw achieved bandwidth, with what a copy reaches and what issuing instructions allows."""
    lines: Lines = {
        name: [(int(row.B), float(row.gb_s)) for row in rows if row.contender == name]
        for name in COLOURS
        if any(row.contender == name for row in rows)
    }
    _lines(axes, lines)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.3g}"))
    limits = {"copy": rows[-1].copy_gb_s, "issue limit": rows[-1].issue_limit_gb_s}
    for (name, value), dashes in zip(limits.items(), ((5, 2), (1, 2)), strict=True):
        if value != NOT_MEASURED:
            axes.axhline(float(value), color=MUTED, lw=1, ls=(0, dashes))
            axes.annotate(
                f"{name}, {float(value):,.0f}",
                (0.01, float(value)),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                fontsize=8,
                color=MUTED,
                path_effects=HALO,
            )
    return lines


def _lines(axes: Axes, lines: Lines) -> None:
    for name, points in lines.items():
        x, y = zip(*sorted(points), strict=True)
        width, size, order = (2.2, 4.0, 3) if name == OURS else (1.2, 2.5, 2)
        axes.plot(x, y, "o-", color=COLOURS[name], lw=width, ms=size, zorder=order)


def _name(axes: Axes, lines: Lines) -> None:
    """Write the names of lines at their right ends, moved apart where they would overlap."""
    low, high = (math.log2(limit) for limit in axes.get_ylim())
    placed = -math.inf
    for value, name in sorted((max(points)[1], name) for name, points in lines.items()):
        placed = max(math.log2(value), placed + 0.065 * (high - low))
        axes.annotate(
            name,
            (1, 2**placed),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=COLOURS[name],
            weight="bold" if name == OURS else "normal",
            annotation_clip=False,
        )


def _style(axes: Axes, title: str, batches: Sequence[int]) -> None:
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(colors=INK, length=3, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(MUTED)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # equal bytes for equal numbers: a fixed salt for the names inside, and no date
    with matplotlib.rc_context({"svg.hashsalt": "duet", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
