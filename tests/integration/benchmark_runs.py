"""Runs a benchmark in a process of its own: each starts a Ray with other flags than the tests around it."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_benchmark(
    name: str, models: Path, folder: Path, *options: str, seconds: float, has_verdict: bool = False
) -> list[dict[str, Any]]:
    """Run ``python -m benchmarks NAME`` on the model ``tiny``; return the rows of its table, numbers as numbers.

    One that ``has_verdict`` may exit with 1: what it is to show needs longer than a test, and a machine of its own.

    Raises:
        AssertionError: If it fails or takes longer than ``seconds``; the message is what it printed.
    """
    table = folder / "table.csv"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        name,
        "--models",
        str(models),
        "--model",
        "tiny",
        "--csv",
        str(table),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PYTHONPATH"] = str(ROOT)
    try:
        done = subprocess.run(
            [*command, *options],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{name} took longer than {seconds:g} s: {error.output!r:.4000}") from error
    has_ended = done.returncode == 0 or (has_verdict and done.returncode == 1 and "FAIL  " in done.stdout)
    assert has_ended, done.stdout + done.stderr
    assert not has_verdict or "PASS  " in done.stdout, done.stdout
    with table.open(encoding="utf-8") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
