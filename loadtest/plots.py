"""Plots of a run as SVG: load, latency, misses, plans, rungs, replicas, generator over time; and latency over load."""

import io
import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from loadtest.figures import IN_TIME_SHARE, PhaseFigures, knee_of
from loadtest.run import Run
from loadtest.shapes import Role
from loadtest.timeline import CPU, IN_FLIGHT, LAG, LATENCY

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
GOOD, LATE, BAD, COOL = "#2f9e6e", "#d9822b", "#c5303c", "#2680c2"
OUTCOME_COLOURS = {"in-time": GOOD, "late": LATE, "shed": "#8719e0", "refused": "#b5a642", "failed": BAD}
RUNG_COLOURS = {
    "plan": COOL,
    "keep": GOOD,
    "shared": MUTED,
    "late": LATE,
    "shed": "#8719e0",
    "refused": "#b5a642",
    "failed": BAD,
}
PERCENTILES = {"p50": (0.5, "#9fc5e8"), "p95": (0.95, "#4a90d9"), "p99": (0.99, "#1c5fa8"), "p99.9": (0.999, "#0b2545")}
PLAN_COLOURS = (COOL, "#0b2545", "#8719e0", LATE, "#3aa6a6", "#b5179e", "#8a6d00", "#9fc5e8")
_MOST_BINS = 120
_NEWS_S = 5
"""How long a number of replicas counts after it was told; it is asked for every two seconds."""
_WIDTH = 9.0


class OverTime:
    """A run cut into bins of whole seconds, few enough to see.

    Args:
        run: The run.
        phases: Its phases, to mark.
    """

    def __init__(self, run: Run, phases: Sequence[PhaseFigures]) -> None:
        self._run, self._phases = run, phases
        shape = run.plan.shape
        end_s = math.ceil(min(run.ran_s, shape.seconds)) if shape else run.timeline.end_s
        self.end_s = max(1, end_s)
        self._width = max(1, math.ceil(self.end_s / _MOST_BINS))
        starts = range(0, self.end_s, self._width)
        self._bins = [run.timeline.over(range(start, start + self._width)) for start in starts]
        self._starts = [float(start) for start in starts]

    def throughput(self) -> Figure:
        """Draw what was due and what became of it."""
        figure, axes = self._figure("updates a second")
        self._step(axes, [each.counts["due"] / self._width for each in self._bins], "#cbd2d9", "due", width=5.0)
        for outcome, colour in OUTCOME_COLOURS.items():
            values = [each.of("outcome").get(outcome, 0) / self._width for each in self._bins]
            if any(values):
                self._step(axes, values, colour, outcome, width=1.8)
        dropped = [each.counts["dropped"] / self._width for each in self._bins]
        if any(dropped):
            self._step(axes, dropped, "#000000", "dropped", width=1.8, style=":")
        axes.set_ylim(bottom=0)
        return self._finished(figure, axes)

    def latency(self, server_share_ms: float) -> Figure:
        """Draw percentiles over time, from when an update was due."""
        figure, axes = self._figure("ms from due to the last byte")
        for name, (share, colour) in PERCENTILES.items():
            self._step(axes, [each.quantile_ms(LATENCY, share) for each in self._bins], colour, name, width=1.5)
        axes.axhline(server_share_ms, color=BAD, lw=1, ls="--", label=f"share {server_share_ms:g} ms")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return self._finished(figure, axes)

    def misses(self, recovery_s: float = math.nan) -> Figure:
        """Draw the share of updates that were not in time, and when that was over after a disturbance."""
        figure, axes = self._figure("% not in time")
        shares = [
            100 * (1 - each.of("outcome").get("in-time", 0) / each.counts["due"]) if each.counts["due"] else math.nan
            for each in self._bins
        ]
        edges = [*self._starts, float(self.end_s)]
        axes.fill_between(edges, [*shares, shares[-1]], step="post", color=BAD, alpha=0.25, lw=0)
        self._step(axes, shares, BAD, "not in time", width=1.5)
        axes.axhline(100 * (1 - IN_TIME_SHARE), color=INK, lw=1, ls="--", label="1 %: the knee")
        axes.set_ylim(0, max(5.0, *(share * 1.1 for share in shares if not math.isnan(share)), 0))
        ends_s = [phase.start_s + phase.seconds for phase in self._phases if phase.role is Role.DISTURBED]
        if ends_s and math.isfinite(recovery_s):
            axes.axvline(ends_s[-1] + recovery_s, color=GOOD, lw=2, label=f"recovered, {recovery_s:.0f} s after")
        return self._finished(figure, axes)

    def plans(self) -> Figure | None:
        """Draw the mix of representations."""
        return self._stack("plan", "% of verified replies", None)

    def rungs(self) -> Figure | None:
        """Draw how far down the ladder the server went."""
        return self._stack("rung", "% of updates", RUNG_COLOURS)

    def versions(self) -> Figure | None:
        """Draw which versions devices got; None where it was one and the same."""
        named = {name for each in self._bins for name in each.of("version")}
        return self._stack("version", "% of verified replies", None) if len(named) > 1 else None

    def replicas(self) -> Figure | None:
        """Draw healthy replicas; None where the server does not tell."""
        names = sorted({name for each in self._bins for name in each.gauges_of("replicas")})
        if not names:
            return None
        figure, axes = self._figure("healthy replicas", height=1.7)
        for name, colour in zip(names, PLAN_COLOURS * len(names), strict=False):
            known, unheard, values = math.nan, 0, []
            for each in self._bins:
                told = each.gauges_of("replicas").get(name)
                known, unheard = (known, unheard + self._width) if told is None else (told, 0)
                # what was told last is no news for long: a server that has died tells nothing
                values.append(known if unheard <= _NEWS_S else math.nan)
            self._step(axes, values, colour, name, width=1.8)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return self._finished(figure, axes)

    def generator(self) -> Figure:
        """Draw what the load generator took, and how late it sent."""
        figure, axes = self._figure("% of a core", height=1.9)
        cpu = [100 * each.gauges.get(CPU, math.nan) for each in self._bins]
        self._step(axes, cpu, COOL, "CPU, busiest process", width=1.5)
        axes.axhline(90, color=BAD, lw=1, ls="--", label="limit")
        axes.set_ylim(0, 110)
        lag = axes.twinx()
        lag.spines[["top"]].set_visible(False)
        lags = [each.quantile_ms(LAG, 0.99) for each in self._bins]
        flying = [each.gauges.get(IN_FLIGHT, math.nan) for each in self._bins]
        name, values = (
            ("p99 ms sent late", lags) if any(not math.isnan(each) for each in lags) else ("under way", flying)
        )
        lag.step(self._starts, values, where="post", color=LATE, lw=1.5)
        lag.set_ylim(bottom=0)
        lag.tick_params(labelsize=9, colors=LATE)
        axes.plot([], [], color=LATE, lw=1.5, label=f"{name} (right)")
        return self._finished(figure, axes)

    def _stack(self, group: str, label: str, colours: Mapping[str, str] | None) -> Figure | None:
        totals: dict[str, int] = {}
        for each in self._bins:
            for name, count in each.of(group).items():
                totals[name] = totals.get(name, 0) + count
        if not totals:
            return None
        names = sorted(totals, key=lambda name: -totals[name])
        if colours is not None:
            names = [name for name in colours if name in totals]
        chosen = colours or dict(zip(names, PLAN_COLOURS * len(names), strict=False)) | {"keep": GOOD}
        figure, axes = self._figure(label, height=2.2)
        sums = [max(1, sum(each.of(group).values())) for each in self._bins]
        shares = [
            [100 * each.of(group).get(name, 0) / total for each, total in zip(self._bins, sums, strict=True)]
            for name in names
        ]
        edges = [*self._starts, float(self.end_s)]
        below = [0.0] * len(self._bins)
        for name, values in zip(names, shares, strict=True):
            above = [low + value for low, value in zip(below, values, strict=True)]
            axes.fill_between(
                edges, [*below, below[-1]], [*above, above[-1]], step="post", color=chosen[name], lw=0, label=name
            )
            below = above
        axes.set_ylim(0, 100)
        return self._finished(figure, axes)

    def _step(
        self, axes: Axes, values: Sequence[float], colour: str, label: str, *, width: float, style: str = "-"
    ) -> None:
        axes.step(
            [*self._starts, float(self.end_s)],
            [*values, values[-1]],
            where="post",
            color=colour,
            lw=width,
            ls=style,
            label=label,
        )

    def _figure(self, label: str, *, height: float = 2.6) -> tuple[Figure, Axes]:
        figure, axes = _framed(height)
        axes.set_ylabel(label, fontsize=9)
        axes.set_xlim(0, self.end_s)
        return figure, axes

    def _finished(self, figure: Figure, axes: Axes) -> Figure:
        """Mark phases and events, and name the lines beside the plot."""
        axes.set_xlabel("seconds", fontsize=9)
        for phase in self._phases:
            end_s = phase.start_s + phase.seconds
            if phase.role is not Role.MEASURED:
                colour = GRID if phase.role is Role.WARM_UP else "#f8dcc4"
                axes.axvspan(phase.start_s, end_s, color=colour, alpha=0.6, lw=0, zorder=0)
            if phase.seconds > 0.04 * self.end_s:
                axes.annotate(
                    phase.name,
                    (phase.start_s + phase.seconds / 2, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=MUTED,
                )
            axes.axvline(phase.start_s, color=GRID, lw=1, zorder=0)
        for event in self._run.events:
            axes.axvline(event.at_s, color=INK, lw=1.2, ls="-.")
            axes.annotate(
                event.name,
                (event.at_s, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -9),
                textcoords="offset points",
                fontsize=8,
                weight="bold",
                color=INK,
            )
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.05, 1.0), frameon=False, handlelength=1.4)
        return figure


def latency_over_load(run: Run, phases: Sequence[PhaseFigures]) -> Figure | None:
    """Draw percentiles against load with the knee marked; None if there are not two different loads."""
    points = sorted(
        (phase for phase in phases if phase.role is Role.MEASURED and phase.figures.due),
        key=lambda phase: phase.figures.offered_rps,
    )
    if len({phase.load for phase in points}) < 2:
        return None
    figure, axes = _framed(3.6)
    loads = [phase.figures.offered_rps for phase in points]
    picks: Mapping[str, Callable[[PhaseFigures], float]] = {
        "p50": lambda phase: phase.figures.p50_ms,
        "p95": lambda phase: phase.figures.p95_ms,
        "p99": lambda phase: phase.figures.p99_ms,
        "p99.9": lambda phase: phase.figures.p999_ms,
    }
    for name, pick in picks.items():
        axes.plot(loads, [pick(phase) for phase in points], "o-", color=PERCENTILES[name][1], ms=5, label=name)
    for phase in points:
        if not phase.figures.in_time_share >= IN_TIME_SHARE:
            share = f"{100 * phase.figures.in_time_share:.0f} % in time"
            axes.annotate(
                share,
                (phase.figures.offered_rps, phase.figures.p999_ms),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=BAD,
            )
    if run.plan.kind == "open":
        knee = knee_of(phases)
        _mark_knee(axes, knee, points)
    axes.set_yscale("log")
    axes.margins(y=0.12)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("updates due a second" if run.plan.kind == "open" else "updates a second", fontsize=9)
    axes.set_ylabel("ms from due to the last byte" if run.plan.kind == "open" else "ms", fontsize=9)
    saturation = run.plan.saturation
    if saturation is not None and saturation.points:
        axes.axvline(saturation.capacity_rps, color=MUTED, lw=1.2, ls="--", label="closed-loop capacity")
    axes.set_xlim(0, 1.08 * max(*loads, saturation.capacity_rps if saturation else 0.0))
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.05, 1.0), frameon=False)
    return figure


def _mark_knee(axes: Axes, knee: PhaseFigures | None, points: Sequence[PhaseFigures]) -> None:
    if knee is None:
        axes.set_title("No load was carried: even the smallest had less than 99 % in time", loc="left", fontsize=10)
        return
    x, is_last = knee.figures.offered_rps, knee is points[-1]
    axes.axvspan(0, x, color=GOOD, alpha=0.10, lw=0)
    axes.axvline(x, color=GOOD, lw=2)
    words = f"knee: {x:,.0f} a second" if not is_last else f"no knee up to {x:,.0f} a second"
    axes.annotate(
        words,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-6, -12),
        textcoords="offset points",
        ha="right",
        fontsize=10,
        weight="bold",
        color=GOOD,
    )


def _framed(height: float) -> tuple[Figure, Axes]:
    """Make a plot whose axes begin and end where those of all others do."""
    figure = Figure(figsize=(_WIDTH, height))
    figure.subplots_adjust(left=0.075, right=0.76, top=1 - 0.25 / height, bottom=0.45 / height)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    return figure, axes


def svg(figure: Figure) -> str:
    """Spell a figure as an element of an HTML page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "duet", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
