"""What a run has to show: objectives from ``slo.yaml``, held against the figures of a run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator

from loadtest.figures import Figures
from loadtest.shapes import read_yaml
from loadtest.words import written

SLO_FILE = Path(__file__).with_name("slo.yaml")

DEFAULT, GENERATOR = "default", "generator"
"""The objectives of the load generator itself. A run that misses one says nothing about the server."""


class Limit(BaseModel):
    """One side of a limit, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Limit":
        if self.at_least is None and self.at_most is None:
            raise ValueError("Expected at_least or at_most, got neither.")
        return self

    def holds(self, value: float) -> bool:
        """Tell whether a value keeps it; what was not measured keeps nothing."""
        if math.isnan(value):
            return False
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def told(self, figure: str) -> str:
        """Write it with the unit of a figure."""
        sides = (("≥", self.at_least), ("≤", self.at_most))
        return " and ".join(f"{sign} {written(figure, value)}" for sign, value in sides if value is not None)


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    figure: str
    limit: str
    measured: float
    holds: bool
    is_of_generator: bool


_OBJECTIVES: TypeAdapter[dict[str, dict[str, Limit]]] = TypeAdapter(dict[str, dict[str, Limit]])


def load_objectives(path: Path, name: str | None) -> dict[str, dict[str, Limit]]:
    """Read the objectives of the generator and those that a run is held to.

    Args:
        path: The file.
        name: Which, such as the name of a shape; those called ``default`` where the file has none of that name.

    Returns:
        Limits by figure, by ``generator`` and ``name``.

    Raises:
        ValueError: If the file is of another form, has not both, or limits what is not measured.
        OSError: If it cannot be read.
    """
    known = read_yaml(path, _OBJECTIVES, "objectives, {name: {figure: {at_least, at_most}}}")
    name = name if name in known else DEFAULT
    if GENERATOR not in known or name not in known:
        raise ValueError(f"Expected objectives {GENERATOR} and {name} in {path}, got {', '.join(known) or 'none'}.")
    # a run may set its generator other limits than the usual ones, and has some in any case
    own = {figure: limit for figure, limit in known[name].items() if figure in known[GENERATOR]}
    rest = {figure: limit for figure, limit in known[name].items() if figure not in own}
    chosen = {GENERATOR: known[GENERATOR] | own, name: rest}
    unknown = sorted({figure for limits in chosen.values() for figure in limits} - set(Figures.names()))
    if unknown:
        raise ValueError(f"Expected figures of {', '.join(Figures.names())} in {path}, got {', '.join(unknown)}.")
    return chosen


def check(objectives: Mapping[str, Mapping[str, Limit]], figures: Figures, *, is_open_loop: bool) -> list[Check]:
    """Hold figures to objectives, those of the generator first.

    In closed loop nothing is due at a time, so there is no lag of the generator to be held to.
    """
    return [
        Check(figure, limit.told(figure), figures.value(figure), limit.holds(figures.value(figure)), name == GENERATOR)
        for name, limits in objectives.items()
        for figure, limit in limits.items()
        if is_open_loop or figure != "lag_p99_ms"
    ]


def exit_code(checks: list[Check]) -> int:
    """Say how a run ends: 0 if all hold, 1 if the service missed one, 3 if the generator did."""
    if any(not each.holds for each in checks if each.is_of_generator):
        return 3
    return 0 if all(each.holds for each in checks) else 1
