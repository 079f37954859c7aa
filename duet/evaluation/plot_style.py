"""How all plots look: fonts, colours, axes, names beside lines; figures become SVG files of equal bytes."""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from duet.evaluation.comparison import Interval

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLOURS = ("#2680c2", "#c65d21", "#3a9d6e", "#8719e0", "#b5179e", "#8a6d00")
HALO = [withStroke(linewidth=3, foreground="white")]


def new_figure(title: str, subtitle: str) -> tuple[Figure, Axes]:
    """Return a figure of one plot."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    write_title(figure, title)
    axes = figure.subplots()
    axes.set_title(subtitle, loc="left", fontsize=9, color=MUTED)
    clean(axes)
    return figure, axes


def write_title(figure: Figure, text: str) -> None:
    """Write what a figure shows above it."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=12, weight="bold", color=INK)


def clean(axes: Axes) -> None:
    """Leave of the axes what a reader needs."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(MUTED)
    axes.tick_params(colors=INK, length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.margins(y=0.08)


def draw_point(axes: Axes, x: float, interval: Interval, colour: str, *, hollow: bool) -> None:
    """Draw a mean with its interval."""
    mean, low, high = interval
    axes.errorbar(
        x,
        mean,
        yerr=[[max(mean - low, 0)], [max(high - mean, 0)]],
        fmt="o",
        ms=6,
        color=colour,
        mfc="white" if hollow else colour,
        elinewidth=1.2,
        capsize=3,
    )


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write names at the right of the plot, at their heights as far as they do not overlap."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ordered = sorted(ends)
    rooms = [0.065 * (text.count("\n") + 1) for _, text, _ in ordered]
    heights = [(value - low) / (high - low) for value, _, _ in ordered]
    for place in range(1, len(ordered)):
        heights[place] = max(heights[place], heights[place - 1] + (rooms[place - 1] + rooms[place]) / 2)
    ceiling = 1.03
    for place in reversed(range(len(ordered))):
        heights[place] = min(heights[place], ceiling - rooms[place] / 2)
        ceiling = heights[place] - rooms[place] / 2
    for (_, text, colour), height in zip(ordered, heights, strict=True):
        axes.annotate(
            text,
            (1, height),
            xytext=(6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=colour,
        )


def signed(value: float, _position: float = 0) -> str:
    """Write a difference."""
    return f"{value:+.4f}".replace("-", "−")


def to_svg(figure: Figure) -> bytes:
    """Return the file of a figure."""
    buffer = io.BytesIO()
    # the salt makes the names of clip paths, and with the date left out the whole file, the same every time
    with matplotlib.rc_context({"svg.hashsalt": "duet", "svg.fonttype": "path", "font.size": 9}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
