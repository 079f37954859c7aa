"""Throughput and latency of either placement in closed loop, beside what the same job costs when built otherwise.

    python -m benchmarks serving.throughput colocated [--csv FILE]
    python -m benchmarks serving.throughput split [--csv FILE]

colocated: ours; the same behind Ray Serve's HAProxy; the same without the compiled kernels; one plain FastAPI and
uvicorn process that runs the same stages without batches; an endpoint that does nothing on either ingress.
split: ours; the same behind HAProxy; the naive composition, a hop for each request and ``@serve.batch`` in every stage,
at waits of 0, 1 and 10 ms and of one execution time: what the slowest stage takes for a batch of as many devices as
there are connections at most, measured alone on the server's cores before the first round.

In every round each server is started afresh on the cores of ``--server-cores``, gives the same packages as ours, is
warmed up, and is put under load from ``--load-cores``. Printed are medians over the rounds, and of the ratios to ours,
each corrected for the speed that the cores had during either run (``core_speed.py``), and the claims on these ratios;
the naive composition counts at the wait that suits it best. Exits with 1 if a claim does not hold, or was not measured.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.command_line import parser_of
from benchmarks.serving import versions
from benchmarks.serving.closed_loop import load, packages, write_bodies
from benchmarks.serving.contenders.batch_times import MOST_DEVICES, slowest_ms
from benchmarks.serving.core_speed import CoreSpeed
from benchmarks.serving.pinned import application, cores_of, ours, pinned
from benchmarks.serving.record import append
from benchmarks.serving.verdict import Claim, at_least, at_most, conclude
from duet.evaluation.provenance import provenance

OURS = "ours"
HAPROXY = "ours behind HAProxy"
NOOP = "no-op, direct"
NOOP_HAPROXY = "no-op behind HAProxy"
PLAIN = "plain FastAPI + uvicorn"
REFERENCE = "ours, kernels of PyTorch"
VARIABLES = {REFERENCE: {"DUET_KERNELS": "reference"}}
"""What the environment of some contenders has besides."""

WAITS_MS = (0, 1, 10)
"""Of ``@serve.batch`` in the naive composition, besides one execution time."""

NAIVE = "a hop a request"
"""How the names of the naive composition begin; its wait follows."""

LEAST_OF_PLAIN, MOST_OF_NOOP, LEAST_OF_NAIVE, MOST_OF_NAIVE_ALONE = 1.3, 3.0, 4.0, 1.0
"""Targets: throughput of the plain process's at 16 and 64 connections, and p50 of the no-op's at one; throughput of the
naive composition's at 64, and p50 of its p50 at one."""

_NOOP = "benchmarks.serving.contenders.applications:build_noop"
_NAIVE = "benchmarks.serving.contenders.naive:build_naive"
_PLAIN = "benchmarks.serving.contenders.plain"
_BUDGET_MS = 10_000
_COMPARED = 8
_WARM_UP_S = 3.0
_ROUNDED_SHARE = 0.05

Command = Callable[[Path, str], list[str]]
_Ratio = tuple[float, str]


@dataclass(frozen=True)
class Row:
    """One run of one contender; ``pace_us`` is how fast the cores were, ``Pace.mean_us``."""

    placement: str
    round: int
    contender: str
    connections: int
    requests_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int
    pace_us: float
    server_cores: str
    load_cores: str
    hardware: str
    commit: str

    @property
    def work_s(self) -> float:
        """Answers a second, as many as there would be on a core that takes a microsecond for the piece of work."""
        return self.requests_s * self.pace_us

    @property
    def work_p50(self) -> float:
        """Median of the latency, likewise."""
        return self.p50_ms / self.pace_us


def contenders(placement: str, *, devices: int = 0, execution_ms: float = 0.0) -> dict[str, Command]:
    """Return how every contender of a placement is started, ours first.

    Args:
        placement: ``colocated`` or ``split``.
        devices: In the batch whose execution time is a wait of the naive composition; none without them.
        execution_ms: That time.
    """
    if placement == "colocated":
        return {
            OURS: lambda models, model: ours(models, model),
            HAPROXY: lambda models, model: ours(models, model, "--ingress", "haproxy"),
            REFERENCE: lambda models, model: ours(models, model),
            PLAIN: plain(),
            NOOP: _noop("direct"),
            NOOP_HAPROXY: _noop("haproxy"),
        }
    waits = {f"{NAIVE}, wait {wait_ms} ms": naive(wait_ms) for wait_ms in WAITS_MS}
    if devices:
        waits[f"{NAIVE}, wait {execution_ms:.1f} ms, as a batch of {devices} takes"] = naive(execution_ms)
    return {
        OURS: lambda models, model: ours(models, model, "--placement", "split"),
        HAPROXY: lambda models, model: ours(models, model, "--placement", "split", "--ingress", "haproxy"),
        **waits,
    }


def _noop(ingress: str) -> Command:
    return lambda models, model: application(_NOOP, models, model, "--ingress", ingress)


def plain(processes: int = 1) -> Command:
    """Return how plain FastAPI and uvicorn are started."""
    further = ["--processes", str(processes)]
    return lambda models, model: ["-m", _PLAIN, "--models", str(models), "--model", model, *further]


def naive(wait_ms: float) -> Command:
    """Return how the composition of the tutorials is started, with one wait of ``@serve.batch``."""
    arguments = f'{{"wait_s": {wait_ms / 1000:g}}}'
    return lambda models, model: application(_NAIVE, models, model, "--args", arguments)


def main(arguments: Sequence[str]) -> None:
    """Measure, print the table, append to a CSV file if asked to; exit with 1 if the claims do not hold."""
    options = _parser().parse_args(arguments)
    options.models, options.model = versions.chosen(options)
    console = Console()
    started = {name: command(options.models, options.model) for name, command in _chosen(options).items()}
    rows: list[Row] = []
    try:
        for row in _measured(options, started, console):
            rows.append(row)
            if options.csv is not None:
                append(options.csv, row)
    except KeyboardInterrupt:
        console.print("Interrupted: what was measured so far follows.")
    if not rows:
        sys.exit(1)
    console.print(_table(rows))
    conclude(claims(rows))


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Hold what was found against what was to be shown; what was not measured does not hold."""
    if rows[0].placement == "colocated":
        found = [_throughput(rows, [PLAIN], connections, LEAST_OF_PLAIN) for connections in (16, 64)]
        found.append(_latency(rows, [NOOP], MOST_OF_NOOP))
    else:
        waits = sorted({row.contender for row in rows if row.contender.startswith(NAIVE)})
        if len(waits) <= len(WAITS_MS):
            waits = [NAIVE]  # the best of some is not the best
        found = [_throughput(rows, waits, 64, LEAST_OF_NAIVE), _latency(rows, waits, MOST_OF_NAIVE_ALONE)]
    failed = sum(row.failed for row in rows if row.contender == OURS)
    return [*found, at_most(f"failed requests of {OURS}", failed, 0, ".0f")]


def _throughput(rows: Sequence[Row], others: Sequence[str], connections: int, least: float) -> Claim:
    """Claim that ours answers so many times the requests of the best of some others."""
    ratio, name = _hardest([(_ratio(rows, name, connections, "work_s"), name) for name in others], min)
    return at_least(f"requests/s at {connections} connections, times those of {name}", ratio, least, ".2f")


def _latency(rows: Sequence[Row], others: Sequence[str], most: float) -> Claim:
    """Claim that the median latency of ours is at most so many times that of the best of some others."""
    ratio, name = _hardest([(_ratio(rows, name, 1, "work_p50"), name) for name in others], max)
    return at_most(f"p50 at 1 connection, times that of {name}", ratio, most)


def _hardest(ratios: list[_Ratio], of: Callable[[list[_Ratio]], _Ratio]) -> _Ratio:
    """Choose one, or the first that was not measured."""
    return next((pair for pair in ratios if math.isnan(pair[0])), None) or of(ratios)


def _ratio(rows: Sequence[Row], name: str, connections: int, field: str) -> float:
    """Divide ours by another in every round that has both; return the median, NaN without any."""
    pairs = _pairs(rows, name, connections)
    ratios = [getattr(mine, field) / getattr(other, field) for mine, other in pairs]
    return statistics.median(ratios) if ratios else math.nan


def _pairs(rows: Sequence[Row], name: str, connections: int) -> list[tuple[Row, Row]]:
    """Ours and another, round by round."""
    mine, its = (
        {row.round: row for row in rows if (row.contender, row.connections) == (which, connections)}
        for which in (OURS, name)
    )
    return [(mine[number], its[number]) for number in its if number in mine]


def _measured(options: argparse.Namespace, started: dict[str, list[str]], console: Console) -> Iterator[Row]:
    known = provenance()
    with tempfile.TemporaryDirectory() as folder, CoreSpeed(cores_of(options.server_cores)) as speed:
        path = Path(folder) / "bodies.txt"
        bodies = write_bodies(path, options.models, options.model, budget_ms=_BUDGET_MS)[:_COMPARED]
        expected: list[bytes] = []
        for number in range(options.rounds):
            for name, command in started.items():
                console.print(f"round {number + 1} of {options.rounds}: {name}", highlight=False)
                with pinned(command, cores=options.server_cores, variables=VARIABLES.get(name)) as url:
                    answers = packages(url, options.model, bodies)
                    expected = expected or answers
                    if name not in (NOOP, NOOP_HAPROXY) and not _are_alike(answers, expected, of=name):
                        raise RuntimeError(f"Expected {name} to give the packages that {OURS} gives, got others.")
                    run = {"bodies": path, "cores": options.load_cores}
                    load(url, options.model, connections=16, seconds=_WARM_UP_S, **run)
                    for connections in options.connections:
                        started_s = time.monotonic()
                        loop = load(url, options.model, connections=connections, seconds=options.seconds, **run)
                        yield Row(
                            options.placement,
                            number,
                            name,
                            connections,
                            **asdict(loop),
                            pace_us=speed.since(started_s),
                            server_cores=options.server_cores,
                            load_cores=options.load_cores,
                            hardware=str(known["hardware"]),
                            commit=str(known["commit"]),
                        )


def _are_alike(answers: Sequence[bytes], expected: Sequence[bytes], *, of: str) -> bool:
    """Whether they are the same packages; products of other kernels round by another order of their sums."""
    if of != REFERENCE:
        return list(answers) == list(expected)
    pairs = [(one, other) for pair in zip(answers, expected, strict=True) for one, other in zip(*pair, strict=True)]
    return sum(one != other for one, other in pairs) < _ROUNDED_SHARE * len(pairs)


def _chosen(options: argparse.Namespace) -> dict[str, Command]:
    """Return the contenders that were asked for; in split placement an execution time is measured for one of them."""
    devices, execution_ms = min(max(options.connections), MOST_DEVICES), 0.0
    if options.placement == "split":
        execution_ms = slowest_ms(options.models, options.model, devices=devices, cores=options.server_cores)
    known = contenders(options.placement, devices=devices, execution_ms=execution_ms)
    wanted = tuple(options.only) or ("",)
    return {name: command for name, command in known.items() if name == OURS or name.startswith(wanted)}


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title=f"{rows[0].placement}, medians of {len({row.round for row in rows})} rounds")
    measures = (each for name in ("requests/s", "p50 ms", "p99 ms") for each in (name, "ours / it"))
    for heading in ("connections", "contender", *measures, "failed"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for connections in dict.fromkeys(row.connections for row in rows):
        for name in dict.fromkeys(row.contender for row in rows):
            its = [row for _, row in _pairs(rows, name, connections)]
            if not its:
                continue
            requests_s, p50_ms, p99_ms = (
                statistics.median(getattr(row, field) for row in its) for field in ("requests_s", "p50_ms", "p99_ms")
            )
            table.add_row(
                str(connections),
                name,
                f"{requests_s:,.0f}",
                f"{_ratio(rows, name, connections, 'work_s'):.2f}",
                f"{p50_ms:.2f}",
                f"{_ratio(rows, name, connections, 'work_p50'):.2f}",
                f"{p99_ms:.2f}",
                f"{_ratio(rows, name, connections, 'p99_ms'):.2f}",
                str(sum(row.failed for row in its)),
            )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.throughput", __doc__)
    parser.add_argument("placement", choices=("colocated", "split"))
    versions.add_options(parser)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64], help="default: 1 16 64")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load at each number of connections; default: 6")
    parser.add_argument("--server-cores", default="0", help="as taskset -c reads them; default: 0")
    parser.add_argument("--load-cores", default="1", help="default: 1")
    parser.add_argument(
        "--only", nargs="+", default=[], help="contenders beside ours, by how their names begin; all by default"
    )
    parser.add_argument("--csv", type=Path, help="append the runs to this file")
    return parser
