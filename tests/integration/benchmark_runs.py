"""Runs a benchmark in a process of its own: each starts a Ray with other flags than the tests around it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_benchmark(name: str, models: Path, folder: Path, *options: str, seconds: float) -> list[dict[str, float]]:
    """Run ``python -m benchmarks NAME`` on the model ``tiny``; return the rows of its table.

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
    assert done.returncode == 0, done.stdout + done.stderr
    with table.open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
