"""A record grows by rows of the same columns only."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.serving.record import append


@dataclass(frozen=True)
class Row:
    name: str
    seconds: float


@dataclass(frozen=True)
class Other:
    name: str
    seconds: float
    cores: int


def test_rows_are_appended_below_one_header(tmp_path: Path) -> None:
    record = tmp_path / "new" / "record.csv"

    append(record, Row("a", 0.5))
    append(record, Row("b", 1 / 3))

    assert record.read_text().split() == ["name,seconds", "a,0.5000", "b,0.3333"]


def test_a_record_of_other_columns_is_left_as_it_is(tmp_path: Path) -> None:
    record = tmp_path / "record.csv"
    append(record, Row("a", 0.5))
    before = record.read_bytes()

    with pytest.raises(ValueError, match="Name another file"):
        append(record, Other("b", 0.5, 2))

    assert record.read_bytes() == before
