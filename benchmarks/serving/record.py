"""Appends rows to a CSV file, one by one: a benchmark that is interrupted leaves what it measured."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any


def append(path: Path, row: Any) -> None:
    """Append a row.

    Args:
        path: Made with its folders and a header if it is not there.
        row: A data class whose fields are the columns.

    Raises:
        ValueError: If the file has other columns.
    """
    fields = asdict(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    if not is_new:
        with path.open(newline="") as file:
            columns = next(csv.reader(file), [])
        if columns != list(fields):
            raise ValueError(f"Expected {path} to have the columns {list(fields)}, got {columns}. Name another file.")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        if is_new:
            writer.writeheader()
        writer.writerow({name: f"{value:.4f}" if isinstance(value, float) else value for name, value in fields.items()})
