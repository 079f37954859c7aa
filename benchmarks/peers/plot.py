"""The race as one SVG: good answers a second and the 99 % quantile, a panel each for every number of connections."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benchmarks.peers.contenders import FINE_TUNING, OURS, OURS_TWO, PAIRS, SPLIT
from benchmarks.peers.record import Medians, Row, counted, medians
from duet.evaluation.plot_style import GRID, INK, MUTED
from duet.training.checkpoint import write_atomically

_OURS, _OTHERS = "#c65d21", "#8fa3b5"
_ROW_INCHES = 0.3


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw medians over the rounds as bars, the best at the top.

    Args:
        rows: Of the record; trials do not count.
        path: The file.
    """
    raced = counted(rows)
    loads = sorted({row.connections for row in raced if row.contender != FINE_TUNING})
    names = [name for name in dict.fromkeys(row.contender for row in raced) if name != FINE_TUNING]
    figure = Figure(figsize=(10.5, 1.3 + len(loads) * (0.6 + _ROW_INCHES * len(names))), layout="constrained")
    panels = figure.subplots(len(loads), 2, squeeze=False)
    rounds = len({row.round for row in raced})
    figure.suptitle("One package request, served otherwise", x=0.01, ha="left", fontsize=13, weight="bold", color=INK)
    cores = {row.contender in PAIRS: row.server_cores for row in raced}
    note = f"medians of {rounds} round{'s'[: rounds - 1]}; {raced[0].hardware}: wrk on {raced[0].load_cores}"
    note += "".join(f", {'pairs' if is_pair else 'a server'} on {its}" for is_pair, its in sorted(cores.items()))
    figure.supxlabel(note, x=0.01, ha="left", fontsize=9, color=MUTED)
    for pair, connections in zip(panels, loads, strict=True):
        its = [each for name in names if (each := medians(raced, name, connections)) is not None]
        plural = "connection" if connections == 1 else "connections"
        _bars(pair[0], its, "requests_s", f"requests/s, {connections} {plural}: more is better")
        _bars(pair[1], its, "p99_ms", f"p99 ms, {connections} {plural}: less is better")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _svg(figure))


def _bars(axes: Axes, its: Sequence[Medians], field: str, title: str) -> None:
    ordered = sorted(its, key=lambda each: getattr(each, field), reverse=field != "requests_s")
    values = [getattr(each, field) for each in ordered]
    colours = [_OURS if each.contender in (OURS, OURS_TWO, SPLIT) else _OTHERS for each in ordered]
    axes.barh(range(len(values)), values, color=colours, height=0.72)
    axes.set_yticks(range(len(values)), [each.contender for each in ordered])
    for place, value in enumerate(values):
        text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        axes.annotate(
            text, (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8, color=INK
        )
    axes.set_xlim(0, 1.14 * max(values))
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.tick_params(colors=INK, length=0, labelsize=8)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(MUTED)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # equal bytes for equal numbers: a fixed salt for the names inside, and no date
    with matplotlib.rc_context({"svg.hashsalt": "duet", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
