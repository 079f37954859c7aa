"""Plots of sizes: quality against the bytes of the device model, and the gain against those of the generator."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from duet.evaluation.comparison import Interval, Variant
from duet.evaluation.plot_style import (
    COLOURS,
    HALO,
    MUTED,
    draw_point,
    label_ends,
    new_figure,
    signed,
    to_svg,
)
from duet.evaluation.plots import METRIC, METRIC_NAME
from duet.evaluation.size_sweep import device_bytes, generated, generator_bytes, needed, static_sizes
from duet.training.checkpoint import write_atomically
from duet.training.config import TrainingConfig

LEAST_DISTANCE = 1.3
"""Of two marked sizes, as a factor."""


def draw_sizes(variants: Mapping[str, Variant], folder: Path, *, subtitle: str) -> dict[str, str]:
    """Draw what the sizes of the runs tell, into a folder: as :func:`duet.evaluation.plots.draw`."""
    plots: dict[str, tuple[str, Callable[[Mapping[str, Variant], str], Figure | None]]] = {
        "quality-by-model-bytes.svg": (f"{METRIC_NAME} against bytes of the device model", plot_device_sizes),
        "gain-by-generator-bytes.svg": (f"Gain in {METRIC_NAME} against bytes of the generator", plot_generator_sizes),
    }
    drawn = {}
    for name, (text, plot) in plots.items():
        figure = plot(variants, subtitle)
        if figure is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, to_svg(figure))
            drawn[name] = text
    return drawn


def plot_device_sizes(variants: Mapping[str, Variant], subtitle: str) -> Figure | None:
    """Draw static and generating models by the bytes on the device; arrows lead to a static model that is as good."""
    statics = static_sizes(variants)
    families = list(_families(generated(variants), _but_device_width).values())
    if not statics or not families:
        return None
    figure, axes = new_figure(
        "How large must a device model be?", f"{subtitle}; bars: 95 % interval over users; arrows: as good, static"
    )
    ends = [_line(axes, "static", [(device_bytes(v), v.interval(METRIC)) for v in statics], MUTED)]
    colours: dict[str, str] = {}
    for place, members in enumerate(families):
        points = [(device_bytes(variant), variant.interval(METRIC)) for variant in members]
        colours |= {variant.name: COLOURS[place % len(COLOURS)] for variant in members}
        shortest = min((variant.name for variant in members), key=len)
        ends.append(_line(axes, shortest, points, colours[members[0].name]))
    _scale_bytes(axes, "device model, float32 (logarithmic)", map(device_bytes, statics))
    right = axes.get_xlim()[1]
    for found in needed(variants, METRIC):
        own = device_bytes(found.variant)
        colour = colours[found.variant.name]
        is_reached = bool(np.isfinite(found.times))
        if min(found.times, found.largest) <= 1:
            continue
        end = found.times * own if is_reached else right
        height = found.variant.interval(METRIC)[0]
        arrow = {"arrowstyle": "->", "color": colour, "lw": 1, "ls": "-" if is_reached else ":"}
        axes.annotate("", (end, height), (own, height), arrowprops={**arrow, "shrinkA": 5, "shrinkB": 2})
        text = f"{found.times:.1f} ×" if is_reached else f"> {found.largest:.1f} ×"
        axes.annotate(
            text,
            (np.sqrt(own * end), height),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=colour,
            weight="bold",
            path_effects=HALO,
        )
    axes.set_xlim(right=right)
    axes.set_ylabel(METRIC_NAME)
    label_ends(axes, ends)
    return figure


def plot_generator_sizes(variants: Mapping[str, Variant], subtitle: str) -> Figure | None:
    """Draw the paired gain over the static model against the generator's bytes, a line a window, one device model."""
    static = variants.get("static")
    if static is None:
        return None
    same = [variant for variant in generated(variants) if device_bytes(variant) == device_bytes(static)]
    gains = {variant.name: gain for variant in same if (gain := variant.minus(static, METRIC)) is not None}
    lines = list(_families([variant for variant in same if variant.name in gains], _but_width).values())
    if not any(len({generator_bytes(variant) for variant in members}) > 1 for members in lines):
        return None
    figure, axes = new_figure(
        "What does a larger generator bring to the same device?",
        f"{subtitle}; device model {device_bytes(static) / 1000:,.0f} kB; paired difference to static, 95 % over users",
    )
    axes.axhline(0, color=MUTED, lw=1)
    ends: list[tuple[float, str, str]] = [(0.0, "static", MUTED)]
    for place, members in enumerate(lines):
        points = sorted((generator_bytes(variant), gains[variant.name]) for variant in members)
        label = _window(members[0].records[0].config) if len(members) > 1 else members[0].name
        ends.append(_line(axes, label, points, COLOURS[place % len(COLOURS)]))
    _scale_bytes(axes, "generator in the cloud, float32 (logarithmic)", map(generator_bytes, same))
    axes.set_ylabel(f"gain in {METRIC_NAME}")
    axes.yaxis.set_major_formatter(signed)
    label_ends(axes, ends)
    return figure


def _but_device_width(config: TrainingConfig) -> str:
    """Spell all that makes a device model and its generator, except for the width of the former."""
    backbone = config.backbone.model_copy(update={"width": 1, "heads": 1})
    return backbone.model_dump_json() + config.generator.model_dump_json()


def _but_width(config: TrainingConfig) -> str:
    """Spell all that makes a generator, except for the width of its encoder."""
    return config.generator.model_copy(update={"encoder_width": 1}).model_dump_json()


def _window(config: TrainingConfig) -> str:
    vectors = "vectors of the device" if config.generator.encoder == "head" else "its own vectors"
    return f"last {config.sample_length} items,\n{vectors}"


def _families(found: Sequence[Variant], name: Callable[[TrainingConfig], str]) -> dict[str, list[Variant]]:
    families: dict[str, list[Variant]] = {}
    for variant in found:
        families.setdefault(name(variant.records[0].config), []).append(variant)
    return families


def _line(axes: Axes, name: str, points: Sequence[tuple[int, Interval]], colour: str) -> tuple[float, str, str]:
    """Draw points with intervals and a line through them; return where its name goes."""
    axes.plot([size for size, _ in points], [mean for _, (mean, _, _) in points], color=colour, lw=1.4, alpha=0.7)
    for size, interval in points:
        draw_point(axes, size, interval, colour, hollow=False)
    return points[-1][1][0], name, colour


def _scale_bytes(axes: Axes, text: str, sizes: Iterable[int]) -> None:
    """Make the bytes logarithmic, with a mark at every size that keeps some distance from the one before."""
    axes.set_xscale("log")
    marks: list[int] = []
    for size in sorted(sizes):
        if not marks or size > LEAST_DISTANCE * marks[-1]:
            marks.append(size)
    axes.set_xticks(marks, [f"{mark / 1000:,.0f} kB" for mark in marks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(text)
