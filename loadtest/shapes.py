"""Shapes: how the load goes over time, read from ``shapes.yaml`` or a file of one's own."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, TypeAdapter, ValidationError

SHAPES_FILE = Path(__file__).with_name("shapes.yaml")

Content = TypeVar("Content")


class Role(StrEnum):
    """What a phase is for."""

    WARM_UP = "warm-up"
    MEASURED = "measured"
    DISTURBED = "disturbed"


class Phase(BaseModel):
    """A stretch of time with one load, or one that changes evenly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    seconds: PositiveFloat
    load: NonNegativeFloat | tuple[NonNegativeFloat, NonNegativeFloat]
    role: Role = Role.MEASURED
    event: str | None = None

    def load_at(self, share: float) -> float:
        """Return the load when this share of the phase is over."""
        first, last = self.load if isinstance(self.load, tuple) else (self.load, self.load)
        return first + share * (last - first)


class Shape(BaseModel):
    """Phases, one after the other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str = ""
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]

    @property
    def seconds(self) -> float:
        """How long all of it lasts."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def starts_s(self) -> tuple[float, ...]:
        """When each phase begins."""
        return tuple(sum(phase.seconds for phase in self.phases[:number]) for number in range(len(self.phases)))

    def load_at(self, now_s: float) -> float:
        """Return the load at a time, as a multiple of the run's rate; 0 when the shape is over."""
        for start_s, phase in zip(self.starts_s, self.phases, strict=True):
            if start_s <= now_s < start_s + phase.seconds:
                return phase.load_at((now_s - start_s) / phase.seconds)
        return 0.0

    @property
    def events(self) -> tuple[tuple[float, str], ...]:
        """What happens besides the load, and when."""
        return tuple(
            (start_s, phase.event) for start_s, phase in zip(self.starts_s, self.phases, strict=True) if phase.event
        )

    def stretched(self, factor: float) -> "Shape":
        """Make every phase longer or shorter."""
        return Shape(
            about=self.about,
            phases=tuple(phase.model_copy(update={"seconds": phase.seconds * factor}) for phase in self.phases),
        )


_SHAPES: TypeAdapter[dict[str, Shape]] = TypeAdapter(dict[str, Shape])


def load_shapes(path: Path = SHAPES_FILE) -> Mapping[str, Shape]:
    """Read shapes by name.

    Raises:
        ValueError: If the file does not hold shapes.
        OSError: If it cannot be read.
    """
    return read_yaml(path, _SHAPES, "shapes, {name: {about, phases: [{name, seconds, load, role, event}]}}")


def read_yaml(path: Path, kind: TypeAdapter[Content], expected: str) -> Content:
    """Read a YAML file whose content is checked.

    Raises:
        ValueError: If it is not what is expected there.
        OSError: If it cannot be read.
    """
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return kind.validate_python(data)
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected {path} to hold {expected}, got: {error}") from error
