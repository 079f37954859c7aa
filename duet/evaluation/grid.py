"""A grid of runs: variants of one training configuration times seeds, as a YAML file describes it.

name: movielens-1m
base: ../../training/configs/movielens-1m.yaml   # relative to the grid file
seeds: [0, 1, 2]
runs:
  static: {model: static}
  duet-full: {generator.heads: [full]}           # settings as `duet train --set` takes them
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from duet.protocol.errors import InvalidData
from duet.training.checkpoint import write_atomically
from duet.training.config import TrainingConfig, override, read_config

OUTLINE = "grid.json"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]{0,63}$")]


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    grid: str
    variant: str
    config: TrainingConfig

    @property
    def run_name(self) -> str:
        """Name of the run's folder and of its record."""
        return f"{self.variant}-s{self.config.seed}"


class Grid(BaseModel):
    """What a grid file says."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Name
    """Names the folders of its runs and of its records."""
    base: Path
    """The training configuration that every run starts from."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    runs: dict[Name, dict[str, JsonValue]] = Field(min_length=1)
    """Settings of each variant, keys with dots."""

    def cells(self) -> Iterator[Cell]:
        """List all runs, seed by seed, so that a queue that is stopped leaves whole comparisons.

        Raises:
            InvalidData: If the base or a setting cannot be used, or a variant sets what makes runs incomparable.
        """
        base = read_config(self.base)
        for seed in self.seeds:
            for variant, settings in self.runs.items():
                changes = {"seed": str(seed)}
                for key, value in settings.items():
                    if key == "seed" or key.split(".")[0] == "data":
                        raise InvalidData(
                            path=f"grid {self.name}",
                            line=None,
                            expected="variants of one data set and the same seeds",
                            received=f"{variant} sets {key}",
                            remedy="Set seeds for the whole grid, and the data in its base configuration.",
                        )
                    changes[key] = json.dumps(value)
                yield Cell(self.name, variant, override(base, changes))


class Outline(BaseModel):
    """What lies beside the records of a grid: which runs it has, and in which order they are reported."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: tuple[int, ...]
    variants: tuple[Name, ...]


def write_outline(grid: Grid, results: Path) -> None:
    """Write the outline of a grid to ``<results>/<grid>/grid.json``."""
    outline = Outline(seeds=grid.seeds, variants=tuple(grid.runs))
    folder = results / grid.name
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / OUTLINE, f"{outline.model_dump_json()}\n".encode())


def read_outline(folder: Path) -> Outline:
    """Read the outline of a grid from the folder of its records.

    Raises:
        InvalidData: If there is none, or it is something else.
    """
    path = folder / OUTLINE
    try:
        return Outline.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidData(
            path=path,
            line=None,
            expected="the outline of a grid",
            received=str(error),
            remedy="Run `duet evaluate --grid` with its file: it writes the outline, and only what is missing.",
        ) from error


def read_grid(path: Path) -> tuple[Grid, tuple[Cell, ...]]:
    """Read a grid and all of its cells.

    Raises:
        InvalidData: If the file, its base or a setting cannot be used.
    """
    try:
        grid = Grid.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        if len(set(grid.seeds)) != len(grid.seeds):
            raise ValueError("a seed is there twice")
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise _unusable(path, found) from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise _unusable(path, str(error)) from error
    grid = grid.model_copy(update={"base": path.parent / grid.base})
    return grid, tuple(grid.cells())


def _unusable(path: Path, received: str) -> InvalidData:
    return InvalidData(
        path=path,
        line=None,
        expected="a grid: name, base, seeds and runs",
        received=received,
        remedy="Compare with the files in duet/evaluation/grids.",
    )
