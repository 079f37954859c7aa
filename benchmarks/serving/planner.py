"""The queue that ``duet plan`` simulates against the server that it stands for: p95 at 50, 70 and 85 % of the capacity.

    python -m benchmarks serving.planner --models models --model demo

In every round closed loops (one connection, and many) give the times of the replica and its capacity; those times alone
predict the 95th percentile at three loads, which an open loop then measures: a Poisson process that waits for nobody,
times from when a request was due. PASS where the medians over the rounds differ by at most a quarter. Every request is
generated and has time enough, so that nothing is refused; a generator that was the limit makes the run say nothing.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.command_line import parser_of
from benchmarks.serving.pinned import confined, ours, pinned
from benchmarks.serving.record import append
from duet.evaluation.provenance import provenance
from loadtest.arrivals import arrivals
from loadtest.calibration import Calibration, calibrated_by_report
from loadtest.figures import Figures, busiest_cpu, figures_of
from loadtest.lean_client import LeanClient
from loadtest.prepared import PreparedRequest, Target, judged, prepare
from loadtest.profiles import load_mixes
from loadtest.queueing import simulate
from loadtest.replies import ServedVersion
from loadtest.timeline import CPU

LOADS = (0.5, 0.7, 0.85)

_SHARES = (0.5, 0.95, 0.99)
_TOLERANCE = 0.25
_SHARE_MS = 5000.0
_MIX = "home"
_REQUESTS = 2000
_WARM_UP_S = 2.0
_MOST_CPU, _MOST_LAG_MS = 0.9, 10.0


@dataclass(frozen=True)
class Row:
    """One load in one round: predicted and measured."""

    round: int
    load: float
    requests_s: float
    capacity_rps: float
    batch_ms: float
    request_ms: float
    fixed_ms: float
    predicted_p50_ms: float
    predicted_p95_ms: float
    predicted_p99_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed_share: float
    lag_p99_ms: float
    cpu_share: float
    server_cores: str
    load_cores: str
    hardware: str
    commit: str


def main(arguments: Sequence[str]) -> None:
    """Predict, measure, print, and append to a CSV file if asked to; end with 1 where they do not agree."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    gc.freeze()  # what has been imported is not to be looked through again while requests are timed
    with (
        tempfile.TemporaryDirectory() as folder,
        pinned(ours(options.models, options.model), cores=options.server_cores) as url,
    ):
        target = Target(url, options.model)
        served = target.served()
        requests = prepare(
            target,
            served,
            world=options.world,
            mix=load_mixes()[_MIX],
            count=_REQUESTS,
            server_share_ms=_SHARE_MS,
            is_forgetful=True,
        )
        for number in range(options.rounds):
            found = _calibrated(url, Path(folder) / str(number), options)
            for load in LOADS:
                rows.append(_row(number, load, found, url, requests, served, options))
                print(_told(rows[-1]), flush=True)
                if options.csv is not None:
                    append(options.csv, rows[-1])
    verdicts = [verdict(rows, load) for load in LOADS]
    for told, _ in verdicts:
        print(told)
    if not all(holds for _, holds in verdicts):
        sys.exit(1)


def verdict(rows: Sequence[Row], load: float) -> tuple[str, bool]:
    """Say how the medians of predicted and measured p95 compare at a load, and whether that is close enough."""
    at = [row for row in rows if row.load == load]
    predicted, measured = (statistics.median(getattr(row, f"{who}p95_ms") for row in at) for who in ("predicted_", ""))
    error = predicted / measured - 1
    is_void = any(row.cpu_share > _MOST_CPU or row.lag_p99_ms > _MOST_LAG_MS or row.failed_share for row in at)
    holds = abs(error) <= _TOLERANCE and not is_void
    told = f"{load:.0%} of capacity: p95 {predicted:.2f} ms predicted, {measured:.2f} measured, {error:+.0%}"
    if is_void:
        return f"{told}: says nothing, the generator was the limit or requests failed", False
    return f"{told}: {'PASS' if holds else 'FAIL'}", holds


def _calibrated(url: str, folder: Path, options: argparse.Namespace) -> Calibration:
    command = ["taskset", "-c", options.load_cores, sys.executable, "-m", "loadtest.saturation", "--host", url]
    command += ["--model", options.model, "--world", options.world, "--mix", _MIX, "--report", str(folder)]
    command += ["--forgetful", "--server-share-ms", f"{_SHARE_MS:g}", "--step-s", f"{options.step_s:g}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if not (folder / "report.json").is_file():
        raise RuntimeError(f"Expected a report, got: {done.stderr[-2000:]}")
    return calibrated_by_report(folder / "report.json")


def _row(
    number: int,
    load: float,
    found: Calibration,
    url: str,
    requests: Sequence[PreparedRequest],
    served: ServedVersion,
    options: argparse.Namespace,
) -> Row:
    rate, times, known = load * found.measured_rps, found.times, provenance()
    p50_ms, p95_ms, p99_ms = predicted_ms(found, rate)
    figures = _measured(rate, 100 * number + round(100 * load), url, requests, served, options)
    return Row(
        number,
        load,
        rate,
        found.measured_rps,
        times.batch_ms,
        times.request_ms,
        times.fixed_ms,
        predicted_p50_ms=p50_ms,
        predicted_p95_ms=p95_ms,
        predicted_p99_ms=p99_ms,
        p50_ms=figures.p50_ms,
        p95_ms=figures.p95_ms,
        p99_ms=figures.p99_ms,
        failed_share=1 - figures.in_time_share - figures.late_share,
        lag_p99_ms=figures.lag_p99_ms,
        cpu_share=figures.cpu_share,
        server_cores=options.server_cores,
        load_cores=options.load_cores,
        hardware=str(known["hardware"]),
        commit=str(known["commit"]),
    )


def predicted_ms(found: Calibration, rate: float) -> list[float]:
    """Simulate a rate: p50, p95 and p99 in ms."""
    times_ms = sorted(each for seed in range(3) for each in simulate(found.times, rate, seed=seed))
    return [float(times_ms[int(share * len(times_ms))]) for share in _SHARES]


def _measured(
    rate: float,
    seed: int,
    url: str,
    requests: Sequence[PreparedRequest],
    served: ServedVersion,
    options: argparse.Namespace,
) -> Figures:
    seconds = _WARM_UP_S + options.seconds
    client = LeanClient(url, [each.message for each in requests])
    with confined(options.load_cores):
        client.arrive(arrivals(lambda _: rate, Random(seed), seconds), seconds)
    timeline = judged(client.exchanges, requests, [served], is_open_loop=True, dropped_s=client.dropped_s)
    for second, share in client.cpu.items():
        timeline.at(second).gauge(CPU, share)
    counted = range(int(_WARM_UP_S), int(seconds))
    return figures_of(timeline.over(counted), len(counted), cpu_share=busiest_cpu(timeline, counted))


def _told(row: Row) -> str:
    return (
        f"round {row.round}, {row.load:.0%}, {row.requests_s:,.0f} a second, "
        f"{row.batch_ms:.2f} + {row.request_ms:.3f} n and {row.fixed_ms:.2f} ms: "
        f"p50 {row.predicted_p50_ms:.2f} predicted, {row.p50_ms:.2f} measured; "
        f"p95 {row.predicted_p95_ms:.2f}, {row.p95_ms:.2f}; p99 {row.predicted_p99_ms:.2f}, {row.p99_ms:.2f}; "
        f"generator {row.cpu_share:.0%} of a core, p99 {row.lag_p99_ms:.1f} ms late"
    )


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.planner", __doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder of published models, of a `duet demo` say")
    parser.add_argument("--model", required=True)
    parser.add_argument("--world", default="demo", help="synthetic world that the model was trained on")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--step-s", type=float, default=8.0, help="of each closed loop, of four; default: 8")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each open loop, of three; default: 20")
    parser.add_argument("--server-cores", default="0", help="as taskset -c reads them; default: 0")
    parser.add_argument("--load-cores", default="1", help="default: 1")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    return parser
