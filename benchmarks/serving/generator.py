"""The load generator against ``wrk``: both in closed loop, on the same server and the same requests, in turn (ABAB).

    python -m benchmarks serving.generator --models models --model demo

A generator that measures itself shows here: its throughput stays behind. With more than one connection the server is
the limit, and both have to find the same throughput, to 5 % or to what runs of ``wrk`` differ by, if that is more; runs
that differ by more than 15 % say nothing. With one connection all that a client does between two requests counts, and
``wrk`` is written in C. It looks at no reply; ours checks status and size of every one, and decodes and verifies one in
ten when the clock has stopped.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command_line import parser_of
from benchmarks.serving.closed_loop import load
from benchmarks.serving.pinned import ours, pinned
from benchmarks.serving.record import append
from duet.evaluation.provenance import provenance
from loadtest.prepared import Target, prepare
from loadtest.profiles import load_mixes

WRK, OURS = "wrk", "ours"

_BODIES = 2000
_SHARE_MS = 5000.0
_MIX = "home"
_WARM_UP_S = 3.0
_RAMP_S = 2.0
_TOLERANCE = 0.05
_MOST_NOISE = 0.15
_BUSY = 0.9


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
    cpu_us: float
    server_cores: str
    load_cores: str
    hardware: str
    commit: str


def main(arguments: Sequence[str]) -> None:
    """Measure, print, append to a CSV file if asked to; end with 1 if they do not agree."""
    options = _parser().parse_args(arguments)
    if shutil.which("wrk") is None:
        sys.exit("Expected wrk on the PATH, got none. Install it (Debian, Ubuntu: apt install wrk).")
    known = provenance()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies.txt"
        with pinned(ours(options.models, options.model), cores=options.server_cores) as url:
            _write_bodies(bodies, url, options)
            load(url, options.model, bodies, connections=16, seconds=_WARM_UP_S, cores=options.load_cores)
            for number in range(options.rounds):
                for connections in options.connections:
                    for name, figures in (
                        (WRK, _wrk(url, bodies, connections, options)),
                        (OURS, _ours(url, connections, Path(folder) / "report", options)),
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
    verdicts = [compared(rows, connections) for connections in options.connections]
    for told, _ in verdicts:
        print(told)
    if not all(agrees for _, agrees in verdicts):
        sys.exit(1)


def compared(rows: Sequence[Row], connections: int) -> tuple[str, bool]:
    """Say what both found with so many connections, medians over the rounds, and whether they agree.

    With one connection they need not: what the client does between two requests is a part of the time.
    """

    def runs(name: str, figure: str) -> list[float]:
        return [getattr(row, figure) for row in rows if (row.generator, row.connections) == (name, connections)]

    def told(figure: str) -> str:
        wrk, own = (statistics.median(runs(name, figure)) for name in (WRK, OURS))
        return f"{wrk:.4g} and {own:.4g}"

    found = runs(WRK, "requests_s")
    ratio = statistics.median(runs(OURS, "requests_s")) / statistics.median(found)
    noise = (max(found) - min(found)) / statistics.median(found)
    allowed = max(_TOLERANCE, noise)
    busy = [name for name in (WRK, OURS) if statistics.median(runs(name, "cpu_share")) > _BUSY]
    agrees = connections == 1 or (abs(ratio - 1) <= allowed and noise <= _MOST_NOISE and not busy)
    verdict = "not judged" if connections == 1 else "PASS" if agrees else "FAIL"
    text = (
        f"{connections:4} connections: {verdict}. wrk and ours: {told('requests_s')} requests a second, ratio "
        f"{ratio:.3f}, allowed {allowed:.1%} (wrk's runs differ by {noise:.1%}); p50 {told('p50_ms')} ms, "
        f"p99 {told('p99_ms')} ms; {told('cpu_us')} microseconds of processor time a request"
    )
    return text + "".join(f"; {name} had no processor time left and was the limit" for name in busy), agrees


Figures = tuple[float, float, float, float, float, float]
"""Requests a second, p50, p95 and p99 in ms, the share of a core, and microseconds of it a request."""


def _wrk(url: str, bodies: Path, connections: int, options: argparse.Namespace) -> Figures:
    before_s = _children_s()
    found = load(url, options.model, bodies, connections=connections, seconds=options.seconds, cores=options.load_cores)
    cpu_share = (_children_s() - before_s) / options.seconds
    if found.failed:
        raise RuntimeError(f"Expected wrk to get answers only, got {found.failed} failures.")
    return found.requests_s, found.p50_ms, found.p95_ms, found.p99_ms, cpu_share, 1e6 * cpu_share / found.requests_s


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ours(url: str, connections: int, folder: Path, options: argparse.Namespace) -> Figures:
    command = ["taskset", "-c", options.load_cores, sys.executable, "-m", "loadtest.saturation", "--host", url]
    command += ["--model", options.model, "--world", options.world, "--mix", _MIX, "--report", str(folder)]
    command += ["--connections", str(connections), "--step-s", f"{options.seconds:g}", "--forgetful"]
    command += ["--server-share-ms", f"{_SHARE_MS:g}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if not (folder / "report.json").is_file():
        raise RuntimeError(f"Expected a report, got: {done.stderr[-2000:]}")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (measured,) = (phase for phase in report["phases"] if phase["role"] == "measured")
    figures = measured["figures"]
    if figures["failed_share"] or figures["shed_share"] or figures["refused_share"]:
        raise RuntimeError(f"Expected ours to get answers only, got {figures}.")
    seconds = [each for number, each in report["seconds"].items() if int(number) >= _RAMP_S]
    shares = [each["gauges"]["cpu"] for each in seconds if "cpu" in each["gauges"]]
    cpu_share, requests_s = statistics.mean(shares), figures["offered_rps"]
    return (
        requests_s,
        figures["p50_ms"],
        figures["p95_ms"],
        figures["p99_ms"],
        cpu_share,
        1e6 * cpu_share / requests_s,
    )


def _write_bodies(path: Path, url: str, options: argparse.Namespace) -> None:
    """Write what ours sends, one request a line."""
    target = Target(url, options.model)
    requests = prepare(
        target,
        target.served(),
        world=options.world,
        mix=load_mixes()[_MIX],
        count=_BODIES,
        server_share_ms=_SHARE_MS,
        is_forgetful=True,
    )
    lines = [each.message.partition(b"\r\n\r\n")[2].decode() for each in requests]
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
