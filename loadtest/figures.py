"""From the seconds of a run to its figures: shares, percentiles, recovery, the knee. Knows neither Locust nor a server.

A *knee* is the largest measured load up to which no phase had less than 99 % of its updates in time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from loadtest.shapes import Role, Shape
from loadtest.timeline import CPU, LAG, LATENCY, SERVICE, Second, Timeline

IN_TIME_SHARE = 0.99
"""What must be in time for a load to be carried."""

_RECOVERED_WINDOW_S = 5
_CPU_WINDOW_S = 5


@dataclass(frozen=True)
class Figures:
    """One number each; shares are of what was due. Times in ms.

    Attributes:
        due: Updates that devices wanted.
        offered_rps: The same, a second.
        goodput_rps: Updates in time, a second.
        in_time_share: In time.
        late_share: Right, but late.
        shed_share: Refused with 429 or 503 to the last.
        refused_share: Refused otherwise as documented.
        failed_share: Wrong, lost, unanswered, or an error of the server.
        answered_share: With any outcome but failed: the server told each device something it can rely on.
        dropped_share: Never sent, because the generator had too many under way.
        retried_share: Retries for each update.
        keep_share: Of the verified replies, those that told the device to keep what it has.
        p50_ms: Median from due to the last byte, beside the server; of verified replies, as all quantiles.
        p95_ms: 95 % quantile.
        p99_ms: 99 % quantile.
        p999_ms: 99.9 % quantile.
        service_p99_ms: 99 % quantile from *sending* to the last byte: what a closed loop would report.
        lag_p99_ms: 99 % quantile from due to sent, of first attempts; NaN in closed loop, where nothing is due.
        cpu_share: Of a core, that the busiest generator process took in its busiest five seconds.
        mishandled: Faulty requests that were not refused as documented.
        ran_share: How much of the shape ran.
        disturbed_in_time_share: In time during the disturbance.
        disturbed_goodput_share: Goodput during the disturbance against that before.
        recovery_s: From the end of the disturbance to the second from which on 99 % were in time; infinite if never.
        knee_rps: Updates a second at the knee; NaN if not even the smallest load was carried.
        knee_load: The same as a multiple of the rate of the run.
    """

    due: float
    offered_rps: float
    goodput_rps: float
    in_time_share: float
    late_share: float
    shed_share: float
    refused_share: float
    failed_share: float
    answered_share: float
    dropped_share: float
    retried_share: float
    keep_share: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    service_p99_ms: float
    lag_p99_ms: float
    cpu_share: float
    mishandled: float
    ran_share: float = 1.0
    disturbed_in_time_share: float = math.nan
    disturbed_goodput_share: float = math.nan
    recovery_s: float = math.nan
    knee_rps: float = math.nan
    knee_load: float = math.nan

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """List the figures."""
        return tuple(field.name for field in fields(cls))

    def value(self, name: str) -> float:
        """Return a figure by name."""
        return float(getattr(self, name))


@dataclass(frozen=True)
class PhaseFigures:
    """The figures of one phase."""

    name: str
    role: Role
    start_s: float
    seconds: float
    load: float
    figures: Figures


def figures_of(second: Second, seconds: float, *, cpu_share: float = math.nan) -> Figures:
    """Work out what can be worked out from added-up seconds.

    Args:
        second: The seconds.
        seconds: How many.
        cpu_share: Of the generator.
    """
    counts, due = second.counts, second.counts["due"]
    outcomes, answers = second.of("outcome"), second.of("answer")
    known = sum(outcomes.values()) + counts["dropped"]
    failed = outcomes.get("failed", 0) + max(0, due - known)
    return Figures(
        due=due,
        offered_rps=due / seconds if seconds else math.nan,
        goodput_rps=outcomes.get("in-time", 0) / seconds if seconds else math.nan,
        in_time_share=_share(outcomes.get("in-time", 0), due),
        late_share=_share(outcomes.get("late", 0), due),
        shed_share=_share(outcomes.get("shed", 0), due),
        refused_share=_share(outcomes.get("refused", 0), due),
        failed_share=_share(failed, due),
        answered_share=_share(due - failed - counts["dropped"], due),
        dropped_share=_share(counts["dropped"], due),
        retried_share=_share(counts["retries"], due),
        keep_share=answers.get("keep", 0) / sum(answers.values()) if answers else math.nan,
        p50_ms=second.quantile_ms(LATENCY, 0.5),
        p95_ms=second.quantile_ms(LATENCY, 0.95),
        p99_ms=second.quantile_ms(LATENCY, 0.99),
        p999_ms=second.quantile_ms(LATENCY, 0.999),
        service_p99_ms=second.quantile_ms(SERVICE, 0.99),
        lag_p99_ms=second.quantile_ms(LAG, 0.99),
        cpu_share=cpu_share,
        mishandled=second.counts["faulty/mishandled"],
    )


def _share(count: float, due: float) -> float:
    return count / due if due else math.nan


def phases_of(timeline: Timeline, shape: Shape) -> list[PhaseFigures]:
    """Work out the figures of every phase, over the whole seconds inside it."""
    found = []
    for start_s, phase in zip(shape.starts_s, shape.phases, strict=True):
        numbers = _whole_seconds(start_s, start_s + phase.seconds)
        cpu_share = busiest_cpu(timeline, numbers)
        figures = figures_of(timeline.over(numbers), len(numbers), cpu_share=cpu_share)
        found.append(PhaseFigures(phase.name, phase.role, start_s, phase.seconds, phase.load_at(0.5), figures))
    return found


def run_figures(timeline: Timeline, shape: Shape | None, *, ran_s: float) -> tuple[Figures, list[PhaseFigures]]:
    """Work out the figures of a run: those of its measured phases together, and of each phase.

    Args:
        timeline: What happened.
        shape: How the load went; None for users who wait for their replies, where every second is measured.
        ran_s: How long the run lasted.
    """
    if shape is None:
        numbers = range(timeline.end_s)
        cpu_share = busiest_cpu(timeline, numbers)
        return figures_of(timeline.over(numbers), len(numbers), cpu_share=cpu_share), []
    phases = phases_of(timeline, shape)
    measured = [
        number
        for phase in phases
        if phase.role is Role.MEASURED
        for number in _whole_seconds(phase.start_s, phase.start_s + phase.seconds)
    ]
    everything = range(math.ceil(shape.seconds))
    base = figures_of(
        timeline.over(measured),
        len(measured),
        cpu_share=busiest_cpu(timeline, everything),
    )
    # what is wrong while the service is disturbed, or before it is warm, is wrong all the same
    whole = timeline.over(everything)
    due = whole.counts["due"]
    knee = knee_of(phases)
    values = {name: base.value(name) for name in Figures.names()} | {
        "dropped_share": whole.counts["dropped"] / due if due else math.nan,
        "mishandled": float(whole.counts["faulty/mishandled"]),
        "lag_p99_ms": whole.quantile_ms(LAG, 0.99),
        "ran_share": min(1.0, ran_s / shape.seconds),
        "knee_rps": math.nan if knee is None else knee.figures.offered_rps,
        "knee_load": math.nan if knee is None else knee.load,
        **_disturbance(timeline, phases),
    }
    return Figures(**values), phases


def knee_of(phases: Sequence[PhaseFigures]) -> PhaseFigures | None:
    """Find the largest measured load that was carried, as was every smaller one."""
    carried = None
    for phase in sorted((each for each in phases if each.role is Role.MEASURED), key=lambda each: each.load):
        if not phase.figures.in_time_share >= IN_TIME_SHARE:
            break
        carried = phase
    return carried


def busiest_cpu(timeline: Timeline, numbers: Sequence[int]) -> float:
    """Return the largest mean of five neighbouring seconds of the busiest process, as a share of a core.

    Fewer seconds are taken where there are no five; NaN where nobody looked.
    """
    shares = [timeline.seconds[number].gauges[CPU] for number in numbers if CPU in _gauges(timeline, number)]
    if not shares:
        return math.nan
    width = min(_CPU_WINDOW_S, len(shares))
    return max(sum(shares[start : start + width]) / width for start in range(len(shares) - width + 1))


def recovered_after_s(timeline: Timeline, start_s: float, end_s: float) -> float:
    """Count from a time to the second from which on 99 % are in time; infinite if never.

    Over the next five seconds, and over all that follow: a late update long afterwards is no disturbance any more.
    """
    numbers = _whole_seconds(start_s, end_s)
    end = numbers[-1] + 1

    def is_in_time(until: int) -> bool:
        found = timeline.over(range(first, until))
        return found.of("outcome").get("in-time", 0) >= IN_TIME_SHARE * found.counts["due"]

    for first in numbers[: max(1, len(numbers) - _RECOVERED_WINDOW_S + 1)]:
        if is_in_time(min(first + _RECOVERED_WINDOW_S, end)) and is_in_time(end):
            return first - start_s
    return math.inf


def _disturbance(timeline: Timeline, phases: Sequence[PhaseFigures]) -> dict[str, float]:
    """Figures of the disturbed phases, and of the way back to the end of the shape."""
    disturbed = [phase for phase in phases if phase.role is Role.DISTURBED]
    if not disturbed:
        return {}
    first, last = disturbed[0], disturbed[-1]
    numbers = [number for phase in disturbed for number in _whole_seconds(phase.start_s, phase.start_s + phase.seconds)]
    during = figures_of(timeline.over(numbers), len(numbers))
    before = [phase for phase in phases if phase.role is Role.MEASURED and phase.start_s < first.start_s]
    goodput_before = before[-1].figures.goodput_rps if before else math.nan
    over_s = last.start_s + last.seconds
    end_s = phases[-1].start_s + phases[-1].seconds
    return {
        "disturbed_in_time_share": during.in_time_share,
        "disturbed_goodput_share": during.goodput_rps / goodput_before if goodput_before else math.nan,
        "recovery_s": recovered_after_s(timeline, over_s, end_s) if end_s > over_s else math.nan,
    }


def _whole_seconds(start_s: float, end_s: float) -> range:
    """The numbers of the seconds that lie inside; at least one, so that a short phase is not lost."""
    first = math.ceil(start_s)
    return range(first, max(first + 1, math.floor(end_s)))


def _gauges(timeline: Timeline, number: int) -> dict[str, float]:
    return timeline.seconds[number].gauges if number in timeline.seconds else {}
