"""The load generator against ``wrk``: both in closed loop, on the same server and the same requests, in turn (ABAB).

    python -m benchmarks serving.generator --models models --model demo

A generator that measures itself shows here: its throughput stays behind, and its latencies are larger. Devices are
forgetful and nothing is wrong on purpose, as in the requests that ``wrk`` replays. ``wrk`` verifies nothing; ours
decodes and checks every package, which is part of what it costs.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.command_line import parser_of
from benchmarks.serving.closed_loop import load
from benchmarks.serving.pinned import ours, pinned
from benchmarks.serving.record import append
from duet.evaluation.provenance import provenance
from duet.registry import Registry
from loadtest.profiles import SimulatedDevice, budget_for, device_histories
from loadtest.replies import ServedVersion

_ROOT = Path(__file__).resolve().parents[2]
_BODIES = 500
_SHARE_MS = 5000.0
_LINK = "wifi"
_WARM_UP_S = 3.0


@dataclass(frozen=True)
class Row:
    """One run of one generator."""

    round: int
    generator: str
    connections: int
    requests_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_share: float
    server_cores: str
    load_cores: str
    hardware: str
    commit: str


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and append to a CSV file if asked to."""
    options = _parser().parse_args(arguments)
    if shutil.which("wrk") is None:
        sys.exit("Expected wrk on the PATH, got none. Install it (Debian, Ubuntu: apt install wrk).")
    known = provenance()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies.txt"
        _write_bodies(bodies, options)
        with pinned(ours(options.models, options.model), cores=options.server_cores) as url:
            load(url, options.model, bodies, connections=16, seconds=_WARM_UP_S, cores=options.load_cores)
            for number in range(options.rounds):
                for connections in options.connections:
                    for name, figures in (
                        ("wrk", _wrk(url, bodies, connections, options)),
                        ("locust", _locust(url, connections, Path(folder) / "report", options)),
                    ):
                        row = Row(
                            number,
                            name,
                            connections,
                            *figures,
                            server_cores=options.server_cores,
                            load_cores=options.load_cores,
                            hardware=str(known["hardware"]),
                            commit=str(known["commit"]),
                        )
                        rows.append(row)
                        if options.csv is not None:
                            append(options.csv, row)
    for line in compared(rows):
        print(line)


def compared(rows: Sequence[Row]) -> list[str]:
    """Say for each number of connections what both found, medians over the rounds, and the ratio of their medians."""
    lines = []
    for connections in dict.fromkeys(row.connections for row in rows):
        found = {
            (name, figure): statistics.median(
                getattr(row, figure) for row in rows if (row.generator, row.connections) == (name, connections)
            )
            for name in ("wrk", "locust")
            for figure in ("requests_s", "p50_ms", "p99_ms", "cpu_share")
        }
        told = {
            figure: f"{found['wrk', figure]:.4g} and {found['locust', figure]:.4g} "
            f"({found['locust', figure] / found['wrk', figure]:.2f})"
            for figure in ("requests_s", "p50_ms", "p99_ms")
        }
        lines.append(
            f"{connections:4} connections, wrk and ours (ratio): {told['requests_s']} requests a second, "
            f"p50 {told['p50_ms']} ms, p99 {told['p99_ms']} ms; ours took {found['locust', 'cpu_share']:.0%} of a core"
        )
    return lines


Figures = tuple[float, float, float, float, float]
"""Requests a second, p50, p95 and p99 in ms, and the share of a core (NaN where nobody looked)."""


def _wrk(url: str, bodies: Path, connections: int, options: argparse.Namespace) -> Figures:
    found = load(url, options.model, bodies, connections=connections, seconds=options.seconds, cores=options.load_cores)
    if found.failed:
        raise RuntimeError(f"Expected wrk to get answers only, got {found.failed} failures.")
    return found.requests_s, found.p50_ms, found.p95_ms, found.p99_ms, float("nan")


def _locust(url: str, connections: int, folder: Path, options: argparse.Namespace) -> Figures:
    command = ["taskset", "-c", options.load_cores, sys.executable, "-m", "locust"]
    command += ["-f", str(_ROOT / "loadtest" / "saturation.py"), "--host", url, "--headless", "--only-summary"]
    command += ["--model", options.model, "--world", options.world, "--mix", "home", "--report", str(folder)]
    command += ["--connections", str(connections), "--step-s", f"{options.seconds:g}", "--forgetful"]
    command += ["--malformed-share", "0", "--oversized-share", "0", "--server-share-ms", f"{_SHARE_MS:g}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if not (folder / "report.json").is_file():
        raise RuntimeError(f"Expected a report of Locust, got: {done.stderr[-2000:]}")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (phase,) = (phase["figures"] for phase in report["phases"] if phase["role"] == "measured")
    if phase["failed_share"] or phase["shed_share"] or phase["refused_share"]:
        raise RuntimeError(f"Expected ours to get answers only, got {phase}.")
    return phase["offered_rps"], phase["p50_ms"], phase["p95_ms"], phase["p99_ms"], phase["cpu_share"]


def _write_bodies(path: Path, options: argparse.Namespace) -> None:
    """Write what the simulated devices of the world send, one request a line."""
    version = Registry(options.models).open(options.model)
    served = ServedVersion.read(version.manifest.to_bytes())
    random = Random(0)
    histories = device_histories(options.world, _BODIES, seed=0)
    lines = []
    for number in range(_BODIES):
        device = SimulatedDevice(histories, length=served.sample_length, profile=_LINK, random=random)
        request = device.request(f"device-{number}", now_s=0.0)
        budget_ms = budget_for(
            device.link, request_bytes=500, package_bytes=served.largest_package_bytes, server_share_ms=_SHARE_MS
        )
        lines.append(json.dumps(request | {"budget_ms": round(budget_ms, 1)}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.generator", __doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of published models, of a `duet demo` say")
    parser.add_argument("--model", required=True)
    parser.add_argument("--world", default="demo", help="synthetic world that the model was trained on")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64], help="default: 1 16 64")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load at each number of connections; default: 6")
    parser.add_argument("--server-cores", default="0", help="as taskset -c reads them; default: 0")
    parser.add_argument("--load-cores", default="1", help="default: 1")
    parser.add_argument("--csv", type=Path, help="append the runs to this file")
    return parser
