"""Open loop below, at and beyond capacity: who is answered in time, how fast others are told so, how honest plans are.

    python -m benchmarks serving.overload [--rounds 5] [--seconds 6] [--csv FILE]

Every round measures the capacity of an endpoint that does nothing, of a heavy version of random weights and of the
demo's version, each on a server of its own, and sends each version Poisson streams at shares of its own capacity, with
a budget of which the network takes nothing. Capacity is what a closed loop is answered a second, of the most
connections, 64, 32 or 16, of which 95 % of the answers are within that budget: more would make larger batches, and all
of them late. Server and load generator have a core each. A request is timed from when it was due to the last byte of
its answer; a 504 counts as late, and is accepted.

80 % of what a core did a second ago may be more than it can do now. Its speed is watched from the closed loop before a
stream to its end (``core_speed.py``). Where it varied by more than 30 % the stream is put down as unsteady, told and
not judged, and measured again, up to eight times a round.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.command_line import parser_of
from benchmarks.serving import versions
from benchmarks.serving.bodies import NO_NETWORK, bodies, encoded
from benchmarks.serving.closed_loop import load, write_bodies
from benchmarks.serving.core_speed import CoreSpeed, Pace
from benchmarks.serving.open_loop import OpenLoop, Reply, count, quantile
from benchmarks.serving.pinned import application, confined, cores_of, ours, pinned
from benchmarks.serving.record import append
from benchmarks.serving.verdict import Claim, at_least, at_most, conclude
from deployments.metrics import HONEST_MS, HONEST_SHARE
from duet.evaluation.provenance import provenance

NOOP = "no-op"
CONNECTIONS = (64, 32, 16)
HEAVY_PERCENTS = (100, 150, 200)
DEMO_PERCENTS = (50, 60, 70, 80, 90, 100, 120)
CALM_PERCENTS = (50, 80)

LEAST_GOODPUT, LEAST_ACCEPTED, LEAST_IN_TIME, MOST_REFUSAL_MS = 0.85, 0.99, 0.999, 20.0
HEAVY_SHARES = (0.05, 0.2)
"""Of the capacity of the endpoint that does nothing: about a tenth."""

STEADY = 1.3
"""How many times as fast as at its slowest a core may have been meanwhile, by quarters of a second."""

_TRIES, _MOST_LOOPS = 8, 10
_READY = 128
"""Connections that are open before a stream, as those of the closed loop are: most of what is ever let in at once."""

_MOST_BEHIND_MS = 5.0
_AMPLE_MS = 10_000
_NOOP_APPLICATION = "benchmarks.serving.contenders.applications:build_noop"


@dataclass(frozen=True)
class Row:
    """One stream, or, where ``percent`` is 0, the capacity alone.

    Attributes:
        percent: Of the capacity before it, that was offered.
        capacity_s: Before the stream.
        pace_us: How fast the server's cores were, ``Pace.mean_us``.
        pace_spread: How steady they were, ``Pace.spread``.
        connections: That capacity was measured with.
        in_time: Answers within the budget.
        late: Answers after it, and 504.
        not_sent: Because the load generator was the limit.
        goodput_s: Answers within the budget, a second.
        refusal_p50_ms: Until a refusal had arrived.
        error_p95_ms: Of the distance of predicted and measured server time.
        dishonesty_p95: Of that distance, in units of what is allowed for the request; above 1 is too much.
        behind_p99_ms: Of the load generator's own delay.
    """

    model: str
    round: int
    percent: int
    capacity_s: float
    pace_us: float
    pace_spread: float
    connections: int
    seconds: float
    sent: int
    in_time: int
    late: int
    refused: int
    failed: int
    not_sent: int
    goodput_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refusal_p50_ms: float
    error_p95_ms: float
    dishonesty_p95: float
    behind_p99_ms: float
    budget_ms: float
    server_cores: str
    load_cores: str
    hardware: str
    commit: str

    @property
    def is_steady(self) -> bool:
        """Whether the server's cores held their speed."""
        return self.pace_spread <= STEADY

    @property
    def goodput(self) -> float:
        """Answers within the budget, of what the server can do."""
        return self.goodput_s / self.capacity_s

    @property
    def accepted(self) -> int:
        """Requests that were not refused and not lost."""
        return self.in_time + self.late


def main(arguments: Sequence[str]) -> None:
    """Measure, print the table and the verdicts, append to a CSV file if asked to; exit with 1 if one does not hold."""
    options = _parser().parse_args(arguments)
    demo_models, demo_model = versions.chosen(options)
    heavy_models, heavy_model = versions.chosen_heavy(options)
    console = Console()
    rows: list[Row] = []
    try:
        for row in _measured(options, demo=(demo_models, demo_model), heavy=(heavy_models, heavy_model)):
            rows.append(row)
            console.print(_told(row), highlight=False)
            if options.csv is not None:
                append(options.csv, row)
    except KeyboardInterrupt:
        console.print("Interrupted: what was measured so far follows.")
    console.print(_table(rows))
    console.print(f"knee of {demo_model}: {_knee(rows, demo_model)}", highlight=False)
    conclude(claims(rows, demo=demo_model, heavy=heavy_model))


def claims(rows: Sequence[Row], *, demo: str, heavy: str) -> list[Claim]:
    """Hold what was found in the steady streams against what was to be shown: the median of their rounds."""
    found: list[Claim] = []
    # each at the speed that the core had
    works = {
        name: _median([row.capacity_s * row.pace_us for row in rows if row.model == name]) for name in (NOOP, heavy)
    }
    share = works[heavy] / works[NOOP]
    least, most = HEAVY_SHARES
    target = f"about a tenth: {least:g} to {most:g}"
    found.append(Claim("capacity of the heavy version, of the no-op's", f"{share:.3f}", target, least <= share <= most))
    for percent in HEAVY_PERCENTS:
        those, where = _at(rows, heavy, percent), f"heavy version at {percent} %"
        goodput = _median([row.goodput for row in those])
        found.append(at_least(f"{where}, goodput of capacity", goodput, LEAST_GOODPUT, ".3f"))
        found.append(at_least(f"{where}, in time of accepted", _shares(those, "accepted"), LEAST_ACCEPTED))
        if any(row.refused for row in those):
            refusal_ms = _median([row.refusal_p50_ms for row in those if row.refused])
            found.append(at_most(f"{where}, median refusal, ms", refusal_ms, MOST_REFUSAL_MS))
    for percent in CALM_PERCENTS:
        those = _at(rows, demo, percent)
        found.append(at_least(f"{demo} at {percent} %, in time of sent", _shares(those, "sent"), LEAST_IN_TIME))
    for name, percents in ((heavy, HEAVY_PERCENTS), (demo, CALM_PERCENTS)):
        for percent in percents:
            dishonesty = _median([row.dishonesty_p95 for row in _at(rows, name, percent)])
            what = f"{name} at {percent} %, p95 of |predicted - measured| / max({HONEST_MS:g} ms, {HONEST_SHARE:.0%})"
            found.append(at_most(what, dishonesty, 1.0))
    judged = [row for row in rows if row.percent and (row.model == heavy or row.percent in CALM_PERCENTS)]
    not_sent = sum(row.not_sent for row in judged)
    found.append(at_most("requests that the generator could not send", not_sent, 0, ".0f"))
    behind_ms = _median([row.behind_p99_ms for row in judged])
    found.append(at_most("p99 of the generator's own delay, ms", behind_ms, _MOST_BEHIND_MS))
    return found


def _measured(options: argparse.Namespace, *, demo: tuple[Path, str], heavy: tuple[Path, str]) -> Iterator[Row]:
    loads_of = {demo[1]: (demo[0], options.demo_percents), heavy[1]: (heavy[0], options.heavy_percents)}
    with CoreSpeed(cores_of(options.server_cores)) as speed:
        for number in range(options.rounds):
            noop = application(_NOOP_APPLICATION, *demo, "--ingress", "direct")
            with pinned(noop, cores=options.server_cores) as url:
                started_s = time.monotonic()
                found = _capacity(options, url, *demo)
                yield _row(options, NOOP, number, found, speed.since(started_s))
            for model, (models, percents) in loads_of.items():
                with pinned(ours(models, model), cores=options.server_cores) as url:
                    connections = _capacity(options, url, models, model).connections
                    for percent in percents:
                        for _ in range(_TRIES):
                            started_s = time.monotonic()
                            before = _capacity(options, url, models, model, connections=connections)
                            stream = _stream(options, url, models, model, rate=before.requests_s * percent / 100)
                            pace = speed.since(started_s)
                            row = _row(options, model, number, before, pace, percent=percent, stream=stream)
                            yield row
                            if row.is_steady:
                                break


class Capacity(NamedTuple):
    """Answers a second, and with how many connections."""

    requests_s: float
    connections: int


def _capacity(
    options: argparse.Namespace, url: str, models: Path, model: str, *, connections: int | None = None
) -> Capacity:
    """Measure answers a second in closed loop, once what a stream has left behind it is over."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bodies.txt"
        write_bodies(path, models, model, budget_ms=_AMPLE_MS)
        run = {"bodies": path, "seconds": options.closed_seconds, "cores": options.load_cores}
        if connections is None:
            load(url, model, connections=CONNECTIONS[0], **run)  # warms up
        for count in CONNECTIONS if connections is None else (connections,):
            loop = load(url, model, connections=count, **run)
            for _ in range(_MOST_LOOPS):
                if not loop.failed:
                    break
                loop = load(url, model, connections=count, **run)
            else:
                raise RuntimeError(f"Expected a closed loop of {count} connections to be answered, got refusals only.")
            if loop.p95_ms <= options.budget_ms or count == CONNECTIONS[-1]:
                break
    return Capacity(loop.requests_s, count)


def _stream(options: argparse.Namespace, url: str, models: Path, model: str, *, rate: float) -> OpenLoop:
    asked = encoded(bodies(models, model, budget_ms=options.budget_ms, link=NO_NETWORK))
    stream = OpenLoop(f"{url}/v1/models/{model}/parameters", asked, options.budget_ms, lambda _: rate, ready=_READY)
    with confined(options.load_cores):
        stream.run(options.seconds)
    return stream


def _row(
    options: argparse.Namespace,
    model: str,
    number: int,
    before: Capacity,
    pace: Pace,
    *,
    percent: int = 0,
    stream: OpenLoop | None = None,
) -> Row:
    replies = [] if stream is None else stream.replies
    known, outcomes = provenance(), count(replies)
    answered = [reply for reply in replies if reply.status in (200, 204)]
    planned = [reply for reply in answered if not math.isnan(reply.server_ms)]
    waits_ms = [reply.latency_ms for reply in answered]
    return Row(
        model=model,
        round=number,
        percent=percent,
        capacity_s=before.requests_s,
        pace_us=pace.mean_us,
        pace_spread=pace.spread,
        connections=before.connections,
        seconds=options.seconds,
        sent=len(replies),
        in_time=outcomes["in-time"],
        late=outcomes["late"],
        refused=outcomes["refused"],
        failed=outcomes["failed"],
        not_sent=0 if stream is None else stream.dropped,
        goodput_s=outcomes["in-time"] / options.seconds,
        p50_ms=quantile(waits_ms, 0.5),
        p95_ms=quantile(waits_ms, 0.95),
        p99_ms=quantile(waits_ms, 0.99),
        refusal_p50_ms=quantile([reply.latency_ms for reply in replies if reply.outcome == "refused"], 0.5),
        error_p95_ms=quantile([abs(reply.predicted_ms - reply.server_ms) for reply in planned], 0.95),
        dishonesty_p95=quantile([dishonesty(reply) for reply in planned], 0.95),
        behind_p99_ms=quantile([reply.behind_ms for reply in replies], 0.99),
        budget_ms=options.budget_ms,
        server_cores=options.server_cores,
        load_cores=options.load_cores,
        hardware=str(known["hardware"]),
        commit=str(known["commit"]),
    )


def dishonesty(reply: Reply) -> float:
    """Tell how far a prediction was off, in units of what is allowed."""
    allowed_ms = max(HONEST_MS, HONEST_SHARE * reply.server_ms)
    return abs(reply.predicted_ms - reply.server_ms) / allowed_ms


def _at(rows: Sequence[Row], model: str, percent: int) -> list[Row]:
    return [row for row in rows if (row.model, row.percent) == (model, percent) and row.is_steady]


def _shares(rows: Sequence[Row], of: str) -> float:
    """Return the median of the rounds: what was in time, of what was accepted or sent."""
    return _median([row.in_time / getattr(row, of) for row in rows if getattr(row, of)])


def _share(rows: Sequence[Row], of: str) -> float:
    """Pool the rounds: what was in time, of what was accepted or sent."""
    total: int = sum(getattr(row, of) for row in rows)
    return sum(row.in_time for row in rows) / total if total else math.nan


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _knee(rows: Sequence[Row], model: str) -> str:
    """Name the highest load up to which nearly all requests are in time."""
    offered = sorted({row.percent for row in rows if row.model == model})
    good = [percent for percent in offered if percent and _shares(_at(rows, model, percent), "sent") >= LEAST_ACCEPTED]
    if not good:
        return f"below {min(offered, default=0)} % of its capacity"
    return f"{LEAST_ACCEPTED:.0%} of all requests are in time up to {max(good)} % of its capacity"


def _told(row: Row) -> str:
    if not row.percent:
        return (
            f"round {row.round + 1}: {row.model}: {row.capacity_s:,.0f} requests/s in closed loop of {row.connections}"
        )
    return (
        f"round {row.round + 1}: {row.model} at {row.percent} % of {row.capacity_s:,.0f}/s: {row.sent} sent, "
        f"{row.in_time} in time, {row.late} late, {row.refused} refused, {row.failed} failed"
        + ("" if row.is_steady else f"; not judged, the core's speed varied by {row.pace_spread - 1:.0%}")
    )


_SHARES = ("goodput", "in time of accepted", "refused", "failed")
_MEASURES = ("p50_ms", "p99_ms", "refusal_p50_ms", "error_p95_ms", "dishonesty_p95", "behind_p99_ms")


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="Steady streams: counts pooled, the rest medians")
    for heading in (
        "model",
        "load",
        "streams",
        "requests/s",
        *_SHARES,
        *(name.replace("_", " ") for name in _MEASURES),
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for model, percent in dict.fromkeys((row.model, row.percent) for row in rows):
        those = _at(rows, model, percent)
        sent = sum(row.sent for row in those) or 1
        shares = (
            _median([row.goodput for row in those]),
            _share(those, "accepted"),
            *(sum(getattr(row, name) for row in those) / sent for name in ("refused", "failed")),
        )
        rate = _median([row.capacity_s for row in those]) * (percent or 100) / 100
        measures = (_median([getattr(row, name) for row in those]) for name in _MEASURES)
        cells = [*(f"{share:.2%}" for share in shares), *(f"{value:.2f}" for value in measures)] if percent else []
        all_of_them = sum((row.model, row.percent) == (model, percent) for row in rows)
        count_of = f"{len(those)} of {all_of_them}"
        table.add_row(model, f"{percent} %" if percent else "closed loop", count_of, f"{rate:,.0f}", *cells)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.overload", __doc__)
    versions.add_options(parser)
    versions.add_heavy_options(parser)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each stream; default: 5")
    parser.add_argument("--closed-seconds", type=float, default=1.0, help="of each closed loop; default: 1")
    parser.add_argument("--budget-ms", type=float, default=50.0, help="the server's share; default: 50")
    parser.add_argument("--heavy-percents", type=int, nargs="*", default=HEAVY_PERCENTS, help="default: 100 150 200")
    parser.add_argument("--demo-percents", type=int, nargs="*", default=DEMO_PERCENTS, help="of the other version")
    parser.add_argument("--server-cores", default="0", help="as taskset -c reads them; default: 0")
    parser.add_argument("--load-cores", default="1", help="default: 1")
    parser.add_argument("--csv", type=Path, help="append the runs to this file")
    return parser
