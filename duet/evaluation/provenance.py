"""Where a number comes from: commit, hardware, versions. Every committed record carries it."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def commit() -> str:
    """Return the commit the code runs from, with ``-dirty`` after local changes; "unknown" outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # a machine without git
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 and found.stdout.strip() else "unknown"


def provenance() -> dict[str, object]:
    """Return commit, processor, cores and the versions that a measurement depends on."""
    return {
        "commit": commit(),
        "hardware": f"{_processor()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "numpy", "onnxruntime")}
        | {"python": platform.python_version()},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
