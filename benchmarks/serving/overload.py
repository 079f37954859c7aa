"""Open loop below, at and beyond capacity: who is answered in time, how fast others are told so, how honest plans are.

    python -m benchmarks serving.overload [--rounds 5] [--seconds 5] [--csv FILE]

Every round measures the capacity of an endpoint that does nothing, of a heavy version of random weights and of the
demo's version, each on a server of its own, and sends each version Poisson streams at shares of its own capacity, with
a budget of which the network takes nothing. Capacity is what a closed loop is answered a second, of the most
connections, 64, 32 or 16, of which 95 % of the answers are within that budget: more would make larger batches, and all
of them late. Server and load generator have a core each. A request is timed from when it was due to the last byte of
its answer; a 504 counts as late, and is accepted.

What 80 % of capacity is changes with the speed of a shared core, several times a second. So that speed is watched from
the closed loops on (``core_speed.py``): the work of an answer is what all closed loops of a round say, the rate of a
stream its share of what the core could do just before it. Afterwards every quarter of a second of the stream is put
down under the load that it was, with the speed that the core had then; or the quarter before, if that was slower.
"""

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.command_line import parser_of
from benchmarks.serving import versions
from benchmarks.serving.bodies import NO_NETWORK, bodies, encoded
from benchmarks.serving.capability import Capability, loads_during
from benchmarks.serving.core_speed import QUARTER_S, CoreSpeed
from benchmarks.serving.open_loop import OpenLoop, Reply, count, quantile
from benchmarks.serving.pinned import application, confined, cores_of, ours, pinned
from benchmarks.serving.record import append
from benchmarks.serving.verdict import Claim, at_least, at_most, conclude
from deployments.metrics import HONEST_MS, HONEST_SHARE
from duet.evaluation.provenance import provenance

NOOP = "no-op"
HEAVY_PERCENTS = (100, 150, 200)
DEMO_PERCENTS = (50, 60, 70, 80, 90, 100, 120)
CALM_PERCENTS = (50, 80)
LOADS = (*DEMO_PERCENTS, 150, 200)

LEAST_GOODPUT, LEAST_ACCEPTED, LEAST_IN_TIME, MOST_REFUSAL_MS = 0.85, 0.99, 0.999, 20.0
HEAVY_SHARES = (0.05, 0.2)
"""Of the capacity of the endpoint that does nothing: about a tenth."""

_LEAST_REPLIES = 100
_READY = 128
"""Connections that are open before a stream, as those of the closed loop are: most of what is ever let in at once."""

_MOST_BEHIND_MS = 5.0
_NOOP_APPLICATION = "benchmarks.serving.contenders.applications:build_noop"


@dataclass(frozen=True)
class Row:
    """What became of the requests of one stream that came at one load; or, where ``percent`` is 0, the capacity alone.

    Attributes:
        stream: Percent of the capacity that was offered.
        percent: The load that it was, as the nearest of ``LOADS``.
        capacity_s: Answers a second that the server was capable of then.
        pace_us: How fast its cores were then, as ``CoreSpeed`` tells.
        connections: That capacity was measured with.
        seconds: How long the stream was at that load.
        in_time: Answers within the budget.
        late: Answers after it, and 504.
        not_sent: Of the whole stream, because the load generator was the limit.
        goodput_s: Answers within the budget, a second.
        refusal_p50_ms: Until a refusal had arrived.
        error_p95_ms: Of the distance of predicted and measured server time.
        dishonesty_p95: Of that distance, in units of what is allowed for the request; above 1 is too much.
        behind_p99_ms: Of the load generator's own delay.
    """

    model: str
    round: int
    stream: int
    percent: int
    capacity_s: float
    pace_us: float
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
    def accepted(self) -> int:
        """Requests that were not refused and not lost."""
        return self.in_time + self.late

    @property
    def capable(self) -> float:
        """Answers that the server was capable of."""
        return self.capacity_s * self.seconds


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
    """Hold what was found against what was to be shown: the median of the rounds."""
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
        found.append(at_least(f"{where}, goodput of capacity", _share(those, "capable"), LEAST_GOODPUT, ".3f"))
        found.append(at_least(f"{where}, in time of accepted", _share(those, "accepted"), LEAST_ACCEPTED))
        if any(row.refused for row in those):
            found.append(at_most(f"{where}, median refusal, ms", _typical(those, "refusal_p50_ms"), MOST_REFUSAL_MS))
    for percent in CALM_PERCENTS:
        those = _at(rows, demo, percent)
        for of in ("accepted", "sent"):
            found.append(at_least(f"{demo} at {percent} %, in time of {of}", _share(those, of), LEAST_IN_TIME))
    for name, percents in ((heavy, HEAVY_PERCENTS), (demo, CALM_PERCENTS)):
        for percent in percents:
            what = f"{name} at {percent} %, p95 of |predicted - measured| / max({HONEST_MS:g} ms, {HONEST_SHARE:.0%})"
            found.append(at_most(what, _typical(_at(rows, name, percent), "dishonesty_p95"), 1.0))
    judged = [row for row in rows if row.percent and (row.model == heavy or row.percent in CALM_PERCENTS)]
    not_sent = sum(row.not_sent for row in judged)
    found.append(at_most("requests that the generator could not send", not_sent, 0, ".0f"))
    found.append(at_most("p99 of the generator's own delay, ms", _typical(judged, "behind_p99_ms"), _MOST_BEHIND_MS))
    return found


def _measured(options: argparse.Namespace, *, demo: tuple[Path, str], heavy: tuple[Path, str]) -> Iterator[Row]:
    loads_of = {demo[1]: (demo[0], options.demo_percents), heavy[1]: (heavy[0], options.heavy_percents)}
    with CoreSpeed(cores_of(options.server_cores)) as speed:
        for number in range(options.rounds):
            noop = application(_NOOP_APPLICATION, *demo, "--ingress", "direct")
            with pinned(noop, cores=options.server_cores) as url:
                capable = _capability(options, url, *demo, speed)
                yield _row(options, NOOP, number, capable, [capable.pace_us])
            for model, (models, percents) in loads_of.items():
                with pinned(ours(models, model), cores=options.server_cores) as url:
                    capable = _capability(options, url, models, model, speed)
                    for percent in percents:
                        yield from _streamed(options, url, models, model, number, capable, speed, percent)


def _streamed(
    options: argparse.Namespace,
    url: str,
    models: Path,
    model: str,
    number: int,
    capable: Capability,
    speed: CoreSpeed,
    percent: int,
) -> Iterator[Row]:
    capable.measure()
    rate = capable.at(capable.pace_us) * percent / 100
    stream = _stream(options, url, models, model, rate=rate)
    course = speed.course(stream.started_s, stream.started_s + options.seconds)
    loads = loads_during(rate, course, capable.at, LOADS)
    for load in sorted(set(loads)):
        at_load = [place for place, each in enumerate(loads) if each == load]
        yield _row(
            options,
            model,
            number,
            capable,
            [course[place] for place in at_load],
            stream=(percent, load),
            replies=[reply for reply in stream.replies if _quarter(reply, loads) in at_load],
            not_sent=stream.dropped,
        )


def _capability(options: argparse.Namespace, url: str, models: Path, model: str, speed: CoreSpeed) -> Capability:
    run = {"budget_ms": options.budget_ms, "seconds": options.closed_seconds, "cores": options.load_cores}
    return Capability(url, models, model, speed=speed, **run)


def _quarter(reply: Reply, loads: Sequence[int]) -> int:
    return min(int(reply.due_s / QUARTER_S), len(loads) - 1)


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
    capable: Capability,
    paces_us: Sequence[float],
    *,
    stream: tuple[int, int] = (0, 0),
    replies: Sequence[Reply] = (),
    not_sent: int = 0,
) -> Row:
    known, outcomes = provenance(), count(replies)
    answered = [reply for reply in replies if reply.status in (200, 204)]
    planned = [reply for reply in answered if not math.isnan(reply.server_ms)]
    waits_ms = [reply.latency_ms for reply in answered]
    seconds = QUARTER_S * len(paces_us)
    return Row(
        model=model,
        round=number,
        stream=stream[0],
        percent=stream[1],
        capacity_s=statistics.fmean(map(capable.at, paces_us)),
        pace_us=statistics.fmean(paces_us),
        connections=capable.connections,
        seconds=seconds,
        sent=len(replies),
        in_time=outcomes["in-time"],
        late=outcomes["late"],
        refused=outcomes["refused"],
        failed=outcomes["failed"],
        not_sent=not_sent,
        goodput_s=outcomes["in-time"] / seconds,
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
    return [row for row in rows if (row.model, row.percent) == (model, percent)]


def _share(rows: Sequence[Row], of: str) -> float:
    """Return the median of the rounds: what was in time, of what was accepted, sent or possible."""
    totals = {number: [row for row in rows if row.round == number] for number in {row.round for row in rows}}
    sums = [(sum(row.in_time for row in those), sum(getattr(row, of) for row in those)) for those in totals.values()]
    return _median([in_time / total for in_time, total in sums if total])


def _typical(rows: Sequence[Row], name: str) -> float:
    """Return the median of those rows in which there is enough to know."""
    return _median([getattr(row, name) for row in rows if row.sent >= _LEAST_REPLIES and getattr(row, name) >= 0])


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _knee(rows: Sequence[Row], model: str) -> str:
    """Name the highest load up to which nearly all requests are in time."""
    offered = sorted({row.percent for row in rows if row.model == model})
    good = [percent for percent in offered if percent and _share(_at(rows, model, percent), "sent") >= LEAST_ACCEPTED]
    if not good:
        return f"below {min(offered, default=0)} % of its capacity"
    return f"{LEAST_ACCEPTED:.0%} of all requests are in time up to {max(good)} % of its capacity"


def _told(row: Row) -> str:
    if not row.percent:
        return (
            f"round {row.round + 1}: {row.model}: {row.capacity_s:,.0f} requests/s in closed loop of {row.connections}"
        )
    return (
        f"round {row.round + 1}: {row.model} at {row.stream} %: {row.seconds:g} s at {row.percent} % of "
        f"{row.capacity_s:,.0f}/s: {row.sent} sent, {row.in_time} in time, {row.late} late, {row.refused} refused, "
        f"{row.failed} failed"
    )


_MEASURES = ("p50_ms", "p99_ms", "refusal_p50_ms", "error_p95_ms", "dishonesty_p95", "behind_p99_ms")


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="By the load that it was: shares are medians of the rounds, the rest medians of streams")
    shares = ("goodput", "in time of accepted", "in time of sent", "refused", "failed")
    measures = (name.replace("_", " ") for name in _MEASURES)
    for heading in ("model", "load", "seconds", "requests/s", *shares, *measures):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for model, percent in sorted({(row.model, row.percent) for row in rows}):
        those = _at(rows, model, percent)
        seconds = sum(row.seconds for row in those)
        if not percent:
            table.add_row(model, "closed loop", "", f"{_median([row.capacity_s for row in those]):,.0f}")
            continue
        sent = sum(row.sent for row in those) or 1
        table.add_row(
            model,
            f"{percent} %",
            f"{seconds:g}",
            f"{sent / seconds:,.0f}",
            *(f"{_share(those, of):.2%}" for of in ("capable", "accepted", "sent")),
            *(f"{sum(getattr(row, name) for row in those) / sent:.2%}" for name in ("refused", "failed")),
            *(f"{_typical(those, name):.2f}" for name in _MEASURES),
        )
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
