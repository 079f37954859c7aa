"""What a finished run consists of: how it was to go, what happened, and what it found, as JSON too."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from loadtest.figures import Figures, PhaseFigures, run_figures
from loadtest.shapes import Shape
from loadtest.timeline import Timeline

Kind = Literal["closed", "saturation", "open"]
"""Users with think time who wait for their replies; users without, ever more of them; arrivals that wait for nobody."""


@dataclass(frozen=True)
class LoadPlan:
    """How the load was to go.

    Attributes:
        kind: Who decides when a request is sent.
        name: Of the shape.
        shape: None for a closed loop without one.
        rate: Updates a second at a load of 1; in a saturation run loads are users, and this is 1.
        saturation: What an earlier saturation run found, to draw beside this one.
    """

    kind: Kind = "closed"
    name: str = "closed loop"
    shape: Shape | None = None
    rate: float = 1.0
    saturation: "Saturation | None" = None


@dataclass(frozen=True)
class Event:
    """Something that happened besides the load.

    Attributes:
        at_s: When, from the start.
        name: What.
        exit_code: Of its command; 0 if that did what it was to do.
    """

    at_s: float
    name: str
    exit_code: int


@dataclass(frozen=True)
class Point:
    """A load and what it gave."""

    load: float
    requests_s: float
    goodput_rps: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Saturation:
    """What a closed loop without pauses found.

    Attributes:
        points: By number of users.
        capacity_rps: The most updates a second that were in time, over all numbers of users.
        generator_was_limit: Whether the load generator was out of CPU, so that the server may be able to do more.
    """

    points: tuple[Point, ...]
    capacity_rps: float
    generator_was_limit: bool

    @classmethod
    def read(cls, path: Path) -> "Saturation":
        """Read it from the ``report.json`` of a saturation run.

        Raises:
            ValueError: If it is of another run, or found nothing.
            OSError: If it cannot be read.
        """
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            found = report["saturation"]
            points = tuple(Point(**point) for point in found["points"])
            return cls(points, float(found["capacity_rps"]), bool(found["generator_was_limit"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"Expected the report.json of a saturation run in {path}, got {error!r}.") from error


@dataclass(frozen=True)
class Run:
    """A run that is over.

    Attributes:
        timeline: What happened, of all processes.
        plan: How it was to go.
        ran_s: How long it ran.
        host: Who was asked.
        events: What happened besides.
        options: What else was chosen.
    """

    timeline: Timeline
    plan: LoadPlan
    ran_s: float
    host: str
    events: tuple[Event, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def figures(self) -> tuple[Figures, list[PhaseFigures]]:
        """Work its figures out, and those of its phases."""
        return run_figures(self.timeline, self.plan.shape, ran_s=self.ran_s)


def saturation_of(phases: list[PhaseFigures], cpu_limit: float) -> Saturation:
    """Find the capacity in the phases of a saturation run.

    Args:
        phases: Of the run; loads are users.
        cpu_limit: Share of a core beyond which the generator counts as the limit.
    """
    measured = [phase for phase in phases if phase.role == "measured" and phase.figures.due]
    points = tuple(
        Point(
            phase.load,
            phase.figures.offered_rps,
            phase.figures.goodput_rps,
            phase.figures.p50_ms,
            phase.figures.p99_ms,
        )
        for phase in measured
    )
    best = max(measured, key=lambda phase: phase.figures.goodput_rps, default=None)
    if best is None:
        return Saturation((), 0.0, generator_was_limit=False)
    return Saturation(points, best.figures.goodput_rps, best.figures.cpu_share > cpu_limit)


def to_json(saturation: Saturation) -> dict[str, Any]:
    """Spell it as ``Saturation.read`` reads it."""
    return asdict(saturation)
