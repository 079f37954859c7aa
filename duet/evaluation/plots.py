"""Plots of a grid as SVG files, equal bytes for equal records: what an update buys, and whose parameters they are."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from duet.evaluation.comparison import Interval, Variant, baseline_of
from duet.evaluation.cost_tables import cost_of
from duet.evaluation.plot_style import (
    COLOURS,
    HALO,
    INK,
    MUTED,
    clean,
    draw_point,
    label_ends,
    new_figure,
    signed,
    to_svg,
    write_title,
)
from duet.evaluation.record import INT8, OWN
from duet.training.checkpoint import write_atomically

METRIC, METRIC_NAME = "ndcg@10", "NDCG@10"
BASELINES = {"static": MUTED, "capacity-matched": "#4a5568"}
BARS = {
    OWN: "own, now",
    "stale-5": "own, 5 interactions ago",
    "mean": "mean user's",
    "swapped": "another user's",
    "shared": "none generated",
}
"""What the bars are called, by condition."""


def draw(variants: Mapping[str, Variant], folder: Path, *, subtitle: str) -> dict[str, str]:
    """Draw all that the runs have something for, into a folder.

    Args:
        variants: The variants of a grid by name, in order.
        folder: Where the files go.
        subtitle: What all plots are of: data set and seeds.

    Returns:
        What each file shows, by file name.
    """
    plots: dict[str, tuple[str, Callable[[Mapping[str, Variant], str], Figure | None]]] = {
        "quality-by-bytes.svg": (f"Gain in {METRIC_NAME} against bytes per update", plot_bytes),
        "swap-test.svg": (f"{METRIC_NAME} with own, stale, mean and another user's parameters", plot_swaps),
        "staleness.svg": (f"{METRIC_NAME} against the age of the parameters", plot_staleness),
        "time-per-device.svg": (f"Gain in {METRIC_NAME} against time per device", plot_costs),
        "training.svg": (f"Validation {METRIC_NAME} by epoch", plot_training),
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, (text, plot) in plots.items():
        figure = plot(variants, subtitle)
        if figure is not None:
            write_atomically(folder / name, to_svg(figure))
            drawn[name] = text
    return drawn


def plot_bytes(variants: Mapping[str, Variant], subtitle: str) -> Figure | None:
    """Draw the paired gain over the static model against the size of an update, a point a representation."""
    static = baseline_of(variants, "static")
    if static is None or not _generating(variants):
        return None
    figure, axes = new_figure(
        "What an update buys", f"{subtitle}; paired difference to static, 95 % interval over users"
    )
    ends: list[tuple[float, str, str]] = [(0.0, "static", BASELINES["static"])]
    axes.axhline(0, color=BASELINES["static"], lw=1)
    for name, variant in variants.items():
        interval = (
            variant.minus(static, METRIC) if variant.records[0].tested is None and variant.model != "static" else None
        )
        if interval is not None:
            colour = _colours(variants)[name]
            axes.axhline(interval[0], color=colour, lw=1, ls=(0, (5, 3)))
            axes.axhspan(interval[1], interval[2], color=colour, alpha=0.08, lw=0)
            ends.append((interval[0], f"{name},\nnothing is sent", colour))
    for name, variant in _generating(variants).items():
        _ladder(axes, name, _by_bytes(variant, static), _colours(variants)[name])
    axes.set_xlabel("kB per update (float32 unless named); hollow: the shared classifier, before any update")
    axes.set_ylabel(f"gain in {METRIC_NAME}")
    axes.yaxis.set_major_formatter(signed)
    right = axes.get_xlim()[1]
    axes.set_xlim(-0.03 * right, 1.32 * right)
    label_ends(axes, ends)
    return figure


def _ladder(axes: Axes, name: str, points: Sequence[tuple[float, Interval, str]], colour: str) -> None:
    """Draw what one variant serves, with a line through its ranks."""
    ranks = [
        (size, mean)
        for size, (mean, _, _), condition in points
        if condition.startswith("factors") and not condition.endswith(INT8)
    ]
    axes.plot([size for size, _ in ranks], [mean for _, mean in ranks], color=colour, lw=1, alpha=0.5)
    for size, difference, condition in points:
        draw_point(axes, size, difference, colour, hollow=condition == "shared")
        if condition == points[-1][2]:
            text, place, offset, align = f"{name}, {size:.1f} kB", difference[0], (8, -3), "left"
        elif condition != "shared":
            text, place, offset, align = condition.removeprefix("factors-"), difference[1], (0, -11), "center"
        else:
            continue
        axes.annotate(
            text,
            (size, place),
            xytext=offset,
            textcoords="offset points",
            ha=align,
            color=colour,
            weight="bold" if align == "left" else "normal",
            path_effects=HALO,
        )


def _by_bytes(variant: Variant, static: Variant) -> list[tuple[float, Interval, str]]:
    """Return kB, gain and condition of everything a variant serves, the smallest first."""
    record = variant.records[0]
    sizes = {"shared": 0} | {name: size["float32"] for name, size in record.sizes.update.items()}
    sizes |= {
        f"{name}{INT8}": size["int8"] for name, size in record.sizes.update.items() if f"{name}{INT8}" in variant.served
    }
    gains = [
        (size / 1000, variant.under(condition).minus(static, METRIC), condition) for condition, size in sizes.items()
    ]
    return sorted((size, gain, condition) for size, gain, condition in gains if gain is not None)


def plot_swaps(variants: Mapping[str, Variant], subtitle: str) -> Figure | None:
    """Draw a bar for the parameters of this user now, of some interactions ago, of the mean user and of another."""
    generating = _generating(variants)
    if not generating:
        return None
    figure = Figure(figsize=(7.2, 0.9 + 1.8 * len(generating)), layout="constrained")
    panels = figure.subplots(len(generating), 1, sharex=True, squeeze=False)[:, 0]
    write_title(figure, "Whose parameters?")
    figure.supxlabel(
        f"{METRIC_NAME}, {subtitle}; signed: paired difference to own, with its 95 % interval over users",
        x=0.01,
        ha="left",
        fontsize=9,
        color=MUTED,
    )
    for axes, (name, variant) in zip(panels, generating.items(), strict=True):
        _bars(axes, variant, _colours(variants)[name])
        axes.set_title(name, loc="left", color=_colours(variants)[name], size=10, weight="bold")
    panels[0].set_xlim(0, 1.22 * max(_mean(variant.under(OWN)) for variant in generating.values()) or 1)
    return figure


def _bars(axes: Axes, variant: Variant, colour: str) -> None:
    """Draw a bar a condition, with its paired difference to own parameters."""
    own = variant.under(OWN)
    there = [name for name in BARS if name == OWN or name in variant.records[0].answers]
    for place, held in enumerate(map(variant.under, there)):
        mean = _mean(held)
        axes.barh(place, mean, height=0.68, color=colour, alpha=0.45 if place else 1)
        label, end = f"{mean:.4f}", mean
        difference = held.minus(own, METRIC) if place else None
        if difference is not None:
            low, high = (mean - difference[0] + limit for limit in difference[1:])
            axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], color=INK, lw=1, capsize=3)
            label, end = f"{mean:.4f}   {signed(difference[0])}", max(high, mean)
        axes.annotate(label, (end, place), xytext=(5, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(range(len(there)), [BARS[name] for name in there])
    axes.invert_yaxis()
    clean(axes)
    axes.grid(visible=False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[["bottom", "left"]].set_visible(False)


def plot_staleness(variants: Mapping[str, Variant], subtitle: str) -> Figure | None:
    """Draw quality against the age of the parameters, beside what the shared ones of the same run give."""
    figure, axes = new_figure(
        "How long do parameters stay good?", f"{subtitle}; band: 95 % interval of the difference to fresh ones"
    )
    ends: list[tuple[float, str, str]] = []
    marks: set[int] = set()
    for name, variant in _generating(variants).items():
        record, colour = variant.records[0], _colours(variants)[name]
        own = variant.under(OWN)
        ages = sorted(int(condition[6:]) for condition in record.answers if condition.startswith("stale-"))
        if not ages:
            continue
        marks.update(ages)
        fresh = _mean(own)
        differences = [own.under(f"stale-{age}").minus(own, METRIC) for age in ages]
        points = [(0.0, (0.0, 0.0, 0.0))] + [(age, d) for age, d in zip(ages, differences, strict=True) if d]
        x = [age for age, _ in points]
        axes.fill_between(
            x, [fresh + d[1] for _, d in points], [fresh + d[2] for _, d in points], color=colour, alpha=0.15, lw=0
        )
        axes.plot(x, [fresh + d[0] for _, d in points], "o-", color=colour, lw=1.8, ms=5)
        shared = _mean(own.under("shared"))
        axes.axhline(shared, color=colour, lw=1, ls=(0, (5, 3)))
        ends += [(fresh + points[-1][1][0], name, colour), (shared, f"{name}, shared", colour)]
    if not ends:
        return None
    axes.set_xticks(sorted({0, *marks}))
    axes.set_xlabel("age of the parameters, in interactions of their user")
    axes.set_ylabel(METRIC_NAME)
    label_ends(axes, ends)
    return figure


def plot_costs(variants: Mapping[str, Variant], subtitle: str) -> Figure | None:
    """Draw the paired gain over the static model against the time that a device's own parameters take to make."""
    static = baseline_of(variants, "static")
    found = {name: (variant, cost_of(variant, variants)) for name, variant in variants.items()}
    known = {name: (variant, cost) for name, (variant, cost) in found.items() if cost is not None}
    if static is None or not any(variant.model == "fine-tuned" for variant, _ in known.values()):
        return None
    figure, axes = new_figure("What do parameters of one's own cost?", f"{subtitle}; full: alone, hollow: many at once")
    axes.axhline(0, color=BASELINES["static"], lw=1)
    ends: list[tuple[float, str, str]] = [(0.0, "static", BASELINES["static"])]
    for name, (variant, cost) in known.items():
        difference, colour = variant.minus(static, METRIC), _colours(variants)[name]
        if difference is None:
            continue
        times = [cost.one_ms] if cost.batched_ms is None else [cost.one_ms, cost.batched_ms]
        axes.plot(times, [difference[0]] * len(times), color=colour, lw=1, alpha=0.5)
        for place, time_ms in enumerate(times):
            draw_point(axes, time_ms, difference, colour, hollow=place > 0)
        ends.append((difference[0], name, colour))
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds a device, one thread")
    axes.set_ylabel(f"gain in {METRIC_NAME}")
    axes.yaxis.set_major_formatter(signed)
    label_ends(axes, ends)
    return figure


def plot_training(variants: Mapping[str, Variant], subtitle: str) -> Figure | None:
    """Draw what selection looked at, a line a seed, with the epoch that was chosen."""
    is_staged = any(record.training.meta_epochs for variant in variants.values() for record in variant.records)
    dotted = ", dotted: nothing generated yet" * is_staged
    figure, axes = new_figure("Training", f"{subtitle}; a line a seed, the dot is the epoch that was chosen{dotted}")
    ends: list[tuple[float, str, str]] = []
    for name, variant in variants.items():
        colour = _colours(variants)[name]
        histories = [record.training.history for record in variant.records if record.training.history]
        for record in variant.records:
            history, best = record.training.history, record.training.best_epoch
            # the first stage of a staged run, where nothing is generated yet, is dotted
            meta = record.training.meta_epochs
            axes.plot(range(1, meta + 1), history[:meta], color=colour, lw=1, alpha=0.75, ls=":")
            axes.plot(range(meta + 1, len(history) + 1), history[meta:], color=colour, lw=1, alpha=0.75)
            if 0 < best <= len(history):
                axes.plot(best, history[best - 1], "o", color=colour, ms=5)
        if histories:
            epochs = sorted({record.training.best_epoch for record in variant.records})
            span = f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else f"{epochs[0]}"
            ends.append((sum(map(max, histories)) / len(histories), f"{name}\nbest at {span}", colour))
    if not ends:
        return None
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation {METRIC_NAME}")
    axes.set_ylim(bottom=axes.get_ylim()[1] / 2)
    label_ends(axes, ends)
    return figure


def _generating(variants: Mapping[str, Variant]) -> dict[str, Variant]:
    return {name: variant for name, variant in variants.items() if variant.records[0].tested is not None}


def _colours(variants: Mapping[str, Variant]) -> dict[str, str]:
    """Give each variant its colour, the same in every plot of a grid."""
    others = [name for name, variant in variants.items() if variant.model not in BASELINES]
    baselines = {name: BASELINES[variant.model] for name, variant in variants.items() if variant.model in BASELINES}
    return baselines | {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(others)}


def _mean(variant: Variant) -> float:
    means = variant.means(METRIC)
    return sum(means) / len(means)
