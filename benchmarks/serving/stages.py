"""Which share of a request's time each stage of the colocated server takes, alone and in batches.

    python -m benchmarks serving.stages [--csv FILE]

The time of a request is the processor time of the gateway's replica, all of its threads, divided by the requests. The
server's own histograms say how long a stage worked for a batch, as the mean over requests; divided by the mean batch it
is what the stage took for one request. That is rather too much: requests of large batches weigh more in that mean, and
a stage that is interrupted takes longer on the clock. Server and `wrk` share all cores unless they are told otherwise.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from app.commands.top.scrape import Scraper, Snapshot
from benchmarks.command_line import parser_of
from benchmarks.serving import versions
from benchmarks.serving.closed_loop import load, write_bodies
from benchmarks.serving.pinned import gateway_of, ours, pinned
from benchmarks.serving.record import append
from duet.evaluation.provenance import provenance

STAGES = ("plan", "encode", "generate", "compose")
_BUDGET_MS = 10_000
_WARM_UP_S = 3.0
_PATIENCE_S = 30.0
_POLL_S = 0.5


@dataclass(frozen=True)
class Row:
    """One run; times are microseconds a request.

    Attributes:
        request_us: Processor time of the replica.
        batch: Mean requests in a batch.
        encode_us: Of one request, as for the other stages.
        generate_share: Part of ``request_us``.
    """

    round: int
    connections: int
    requests_s: float
    request_us: float
    batch: float
    plan_us: float
    encode_us: float
    generate_us: float
    compose_us: float
    generate_share: float
    server_cores: str
    load_cores: str
    hardware: str
    commit: str


def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, and append to a CSV file if asked to."""
    options = _parser().parse_args(arguments)
    options.models, options.model = versions.chosen(options)
    console = Console()
    rows: list[Row] = []
    for row in _measured(options, console):
        rows.append(row)
        if options.csv is not None:
            append(options.csv, row)
    table = Table(title=f"medians of {options.rounds} rounds, microseconds a request")
    for heading in ("connections", "requests/s", "batch", "request", *STAGES, "generate, share"):
        table.add_column(heading, justify="right")
    for connections in options.connections:
        its = [row for row in rows if row.connections == connections]
        middle = {name: statistics.median(getattr(row, name) for row in its) for name in _SHOWN}
        table.add_row(
            str(connections),
            f"{middle['requests_s']:,.0f}",
            f"{middle['batch']:.1f}",
            *(f"{middle[name]:,.0f}" for name in ("request_us", *(f"{stage}_us" for stage in STAGES))),
            f"{middle['generate_share']:.1%}",
        )
    console.print(table)


_SHOWN = ("requests_s", "batch", "request_us", *(f"{stage}_us" for stage in STAGES), "generate_share")


def _measured(options: argparse.Namespace, console: Console) -> Iterator[Row]:
    known = provenance()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bodies.txt"
        write_bodies(path, options.models, options.model, budget_ms=_BUDGET_MS)
        for number in range(options.rounds):
            console.print(f"round {number + 1} of {options.rounds}", highlight=False)
            with pinned(ours(options.models, options.model), cores=options.server_cores) as url:
                scraper, replica = Scraper(url), gateway_of(os.getpid())
                run = {"bodies": path, "cores": options.load_cores}
                load(url, options.model, connections=16, seconds=_WARM_UP_S, **run)
                for connections in options.connections:
                    before, before_s = _settled(scraper), sum(replica.cpu_times()[:2])
                    loop = load(url, options.model, connections=connections, seconds=options.seconds, **run)
                    spent_s, changes = sum(replica.cpu_times()[:2]) - before_s, _differences(before, _settled(scraper))
                    request_us = 1e6 * spent_s / changes["generate_count"]
                    batch = changes["batch_size_sum"] / changes["batch_size_count"]
                    of_request = {
                        stage: 1000
                        * changes[f"{stage}_sum"]
                        / changes[f"{stage}_count"]
                        / (batch if stage != "plan" else 1)
                        for stage in STAGES
                    }
                    yield Row(
                        round=number,
                        connections=connections,
                        requests_s=loop.requests_s,
                        request_us=request_us,
                        batch=batch,
                        **{f"{stage}_us": taken for stage, taken in of_request.items()},
                        generate_share=of_request["generate"] / request_us,
                        server_cores=options.server_cores,
                        load_cores=options.load_cores,
                        hardware=str(known["hardware"]),
                        commit=str(known["commit"]),
                    )
                scraper.close()


def _settled(scraper: Scraper) -> Snapshot:
    """Read values that are of after this moment.

    Raises:
        TimeoutError: If none come.
    """
    asked_s = time.time()
    while time.time() < asked_s + _PATIENCE_S:
        snapshot = scraper.scrape()
        if snapshot.gateways and all(series.read_s > asked_s for series in snapshot.gateways.values()):
            return snapshot
        time.sleep(_POLL_S)
    raise TimeoutError(f"Expected new metrics within {_PATIENCE_S:g} s, got none.")


def _differences(before: Snapshot, after: Snapshot) -> dict[str, float]:
    """Sum what was counted in between, over gateways and versions; stages by their own names."""
    changes: dict[str, float] = {}
    for name, series in after.gateways.items():
        for (metric, labels), value in series.since(before.gateways.get(name)).values.items():
            stage = dict(labels).get("stage")
            key = metric if stage is None else metric.replace("stage_ms", stage)
            changes[key] = changes.get(key, 0.0) + value
    return changes


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.stages", __doc__)
    versions.add_options(parser)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64], help="default: 1 16 64")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load at each number of connections; default: 6")
    parser.add_argument("--server-cores", default="0-1", help="as taskset -c reads them; default: 0-1")
    parser.add_argument("--load-cores", default="0-1", help="default: 0-1")
    parser.add_argument("--csv", type=Path, help="append the runs to this file")
    return parser
