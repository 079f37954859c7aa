"""The record of a race: a row for each number of connections, contender and round; read back, grouped, condensed."""

import csv
import statistics
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

TRIAL = 0
"""The round in which the variants of a contender are tried, before the first one that counts."""


@dataclass(frozen=True)
class Row:
    """One contender under one load, once.

    Attributes:
        round: From 1; 0 where variants are tried.
        contender: Who.
        variant: How it was set up.
        connections: At once.
        requests_s: Good answers a second; of fine-tuning, updates.
        p50_ms: Median of the time to an answer.
        p95_ms: 95 % quantile.
        p99_ms: 99 % quantile.
        failed: Requests that were not answered well.
        resident_mib: Memory of all its processes after the load, shared pages counted once.
        cold_start_s: From the start of its process to the first good answer.
        lines: Of code that were written for it, the stages left out.
        lines_behind: Of code of what it stands on, without what that stands on.
        version: Of what it stands on.
        seconds: Of load.
        server_cores: As ``taskset -c`` reads them.
        load_cores: The same, of the generator.
        hardware: Processor and cores.
        commit: Of this checkout.
    """

    round: int
    contender: str
    variant: str
    connections: int
    requests_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int
    resident_mib: float
    cold_start_s: float
    lines: int
    lines_behind: int
    version: str
    seconds: float
    server_cores: str
    load_cores: str
    hardware: str
    commit: str


def read(path: Path) -> list[Row]:
    """Read a record.

    Raises:
        ValueError: If it has other columns, or a value that is not of its kind.
    """
    kinds: dict[str, Callable[[str], typing.Any]] = typing.get_type_hints(Row)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        expected = [field.name for field in fields(Row)]
        if reader.fieldnames != expected:
            raise ValueError(f"Expected {path} to have the columns {expected}, got {reader.fieldnames}.")
        return [Row(**{name: kinds[name](value) for name, value in line.items()}) for line in reader]


def finished(rows: Sequence[Row], connections: Sequence[int]) -> set[tuple[int, str, str]]:
    """Tell which turns are complete: round, contender and variant, with every number of connections."""
    turns: dict[tuple[int, str, str], set[int]] = {}
    for row in rows:
        turns.setdefault((row.round, row.contender, row.variant), set()).add(row.connections)
    return {turn for turn, measured in turns.items() if measured.issuperset(connections)}


def counted(rows: Sequence[Row]) -> list[Row]:
    """Leave out the trials."""
    return [row for row in rows if row.round != TRIAL]


def best_variant(rows: Sequence[Row], contender: str) -> str:
    """Return the variant with the most good answers a second in its trial, by the geometric mean over the loads.

    Raises:
        ValueError: If none was tried.
    """
    tried: dict[str, list[float]] = {}
    for row in rows:
        if (row.round, row.contender) == (TRIAL, contender):
            tried.setdefault(row.variant, []).append(max(row.requests_s, 1e-3))
    if not tried:
        raise ValueError(f"Expected trials of {contender}, got none.")
    return max(tried, key=lambda variant: statistics.geometric_mean(tried[variant]))


@dataclass(frozen=True)
class Medians:
    """One contender under one load: medians over the rounds, and of the ratios within a round of ours to it."""

    contender: str
    connections: int
    requests_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int
    rounds: int


def medians(rows: Sequence[Row], contender: str, connections: int) -> Medians | None:
    """Condense the rows of a contender under one load; None if there are none."""
    its = [row for row in counted(rows) if (row.contender, row.connections) == (contender, connections)]
    if not its:
        return None
    middle = {name: statistics.median(getattr(row, name) for row in its) for name in _CONDENSED}
    return Medians(contender, connections, **middle, failed=sum(row.failed for row in its), rounds=len(its))


def ratio(rows: Sequence[Row], field: str, contender: str, other: str, connections: int) -> float:
    """Return the median over the rounds of one contender's value over another's in the same round; NaN without any."""
    values: dict[str, dict[int, float]] = {contender: {}, other: {}}
    for row in counted(rows):
        if row.contender in values and row.connections == connections:
            values[row.contender][row.round] = getattr(row, field)
    both = values[contender].keys() & values[other].keys()
    ratios = [values[contender][each] / values[other][each] for each in both if values[other][each]]
    return statistics.median(ratios) if ratios else float("nan")


_CONDENSED = ("requests_s", "p50_ms", "p95_ms", "p99_ms")
