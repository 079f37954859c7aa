"""The sentence that a report begins with: what was found, or why nothing was."""

import math
from collections.abc import Sequence

from loadtest.figures import Figures, PhaseFigures
from loadtest.run import Run, saturation_of
from loadtest.shapes import Role
from loadtest.slo import Check
from loadtest.words import percent

CPU_LIMIT = 0.9
VOID = 3


def headline_of(run: Run, figures: Figures, phases: Sequence[PhaseFigures], checks: Sequence[Check], code: int) -> str:
    """Say in a sentence what was found."""
    if code == VOID:
        return f"No result: {'; '.join(_reason(each) for each in checks if each.is_of_generator and not each.holds)}."
    if run.plan.kind == "saturation":
        return f"Capacity: {saturation_of(list(phases), CPU_LIMIT).capacity_rps:,.0f} updates a second in time."
    if any(phase.role is Role.DISTURBED for phase in phases):
        return _disturbance(figures, phases)
    if run.plan.kind == "open" and _is_stairs(run):
        if math.isnan(figures.knee_rps):
            return "Not even the smallest load was carried."
        return f"Carries {figures.knee_rps:,.0f} updates a second with 99 % in time."
    events = " and ".join(event.name for event in run.events)
    found = f"{percent(figures.in_time_share)} of {figures.due:,.0f} updates in time"
    return f"{found}, before and after the {events}." if events else f"{found}."


def _is_stairs(run: Run) -> bool:
    """Whether different loads were each held for a while: only then there is a knee to look for."""
    measured = [phase.load for phase in run.plan.shape.phases if phase.role is Role.MEASURED] if run.plan.shape else []
    return len(set(measured)) > 1 and not any(isinstance(load, tuple) for load in measured)


def _disturbance(figures: Figures, phases: Sequence[PhaseFigures]) -> str:
    name = next(phase.name for phase in phases if phase.role is Role.DISTURBED)
    during = f"{percent(figures.disturbed_in_time_share)} of the updates in time during the {name}"
    if math.isnan(figures.recovery_s):
        return f"{during}."
    if math.isinf(figures.recovery_s):
        return f"Not recovered by the end; {during}."
    return f"Recovered {figures.recovery_s:.0f} s after the {name}; {during}."


def _reason(missed: Check) -> str:
    """Say why a run whose generator missed a limit says nothing, and what to do."""
    reasons = {
        "cpu_share": f"the load generator was the limit, with {percent(missed.measured)} of a core; "
        "give it --processes or cores of its own",
        "lag_p99_ms": f"the load generator sent {missed.measured:,.0f} ms late (p99); its machine does other things, "
        "or the rate is too high for it",
        "dropped_share": f"{percent(missed.measured)} of the updates were never sent, because too many were under way",
        "ran_share": f"the run was stopped after {percent(missed.measured)} of it",
    }
    return reasons.get(missed.figure, f"{missed.figure} did not work")
