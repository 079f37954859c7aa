"""The same job beside what people would use instead, in closed loop: one package request, answers equal to ours.

    python -m benchmarks peers.race                                       # about 20 minutes on an idle machine
    python -m benchmarks peers.race --resume                              # go on after Ctrl-C
    python -m benchmarks peers.race --report benchmarks/records/race.csv  # tables, plot and verdict of a record

Ours colocated and split; Ray Serve in the way of its tutorials; FastAPI and uvicorn; LitServe; BentoML; ours twice and
FastAPI twice, on two cores; fine-tuning on the device, which needs no server. Each in the way of its own documentation,
with its batching on. LitServe and BentoML live in an environment of their own, which is made the first time (needs the
package index). Where there are several good ways to set one up, a trial of all of them comes first, and the best races.

In every round each contender is started afresh on the cores of --server-cores, must give what the stages give by
themselves, alone and with others at once, is warmed up, and is put under load by wrk from --load-cores. Progress goes
to stderr, tables and verdict to stdout. The exit code is 1 if a target is missed, 130 after Ctrl-C, which ends what was
started.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks.command_line import parser_of
from benchmarks.peers import record
from benchmarks.peers.contenders import FINE_TUNING, MOST, OURS, PAIRS, Contender, known
from benchmarks.peers.environment import peers_environment
from benchmarks.peers.plot import draw
from benchmarks.peers.report import claims, tables
from benchmarks.peers.turn import Course, Turns
from benchmarks.serving import versions
from benchmarks.serving.closed_loop import require_wrk
from benchmarks.serving.record import append
from benchmarks.serving.verdict import conclude
from duet.evaluation.provenance import commit

_RECORD = versions.CACHE / "peers" / "race.csv"
_WARM_UP_S = 2.0
_TRIAL_S = 2.0
_INTERRUPTED = 130


def main(arguments: Sequence[str]) -> None:
    """Race, or report a race that is over."""
    options = _parser().parse_args(arguments)
    if options.report is not None:
        rows = record.read(options.report)
        _tell_result(rows, options.plot)
        conclude(claims(rows))
        return
    try:
        require_wrk()
        before = _before(options)
        signal.signal(signal.SIGTERM, _interrupt)
        rows = _race(options, before)
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        resumed = f" Go on with --resume: the record is {options.csv}." if options.csv.exists() else ""
        sys.exit(f"peers.race: {error}{resumed}")
    except KeyboardInterrupt:
        _say(f"interrupted; everything that was started has ended. Go on with --resume: the record is {options.csv}.")
        sys.exit(_INTERRUPTED)
    _tell_result(rows, options.plot)
    conclude(claims(rows))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _before(options: argparse.Namespace) -> list[record.Row]:
    """Read the record that is gone on with.

    Raises:
        ValueError: If there is one and nobody said so, or it is of another commit or another load.
    """
    if not options.csv.exists():
        return []
    if not options.resume:
        advice = "go on with it (--resume), look at it (--report FILE), or name another file (--csv)"
        raise ValueError(f"Expected no record at {options.csv}, got one: {advice}.")
    rows = record.read(options.csv)
    now = (commit(), options.server_cores, options.load_cores)
    for row in rows:
        then = (row.commit, row.server_cores if row.contender not in PAIRS else now[1], row.load_cores)
        if then != now or (row.round != record.TRIAL and row.seconds != options.seconds):
            raise ValueError(
                f"Expected rows of {now} and {options.seconds:g} s in {options.csv}, got {then} and {row.seconds:g} s."
            )
    return rows


def _race(options: argparse.Namespace, rows: list[record.Row]) -> list[record.Row]:
    """Take the turns that the record does not have, and append each to it."""
    options.models, options.model = versions.chosen(options)
    racing = [each for each in known() if not options.only or each.name in (OURS, *options.only)]
    if any(each.is_peer for each in racing):
        peers_environment(options.cache, _say)
    rows = list(rows)
    with tempfile.TemporaryDirectory() as scratch:
        turns = Turns(_course(options, Path(scratch)))
        for contender in racing:
            if len(contender.setups) > 1:
                for variant in contender.setups:
                    rows += _taken(options, turns, contender, variant, record.TRIAL, rows)
        for number in range(1, options.rounds + 1):
            for contender in _order(racing, number):
                several = len(contender.setups) > 1
                variant = record.best_variant(rows, contender.name) if several else next(iter(contender.setups))
                rows += _taken(options, turns, contender, variant, number, rows)
    return rows


def _order(racing: Sequence[Contender], number: int) -> list[Contender]:
    """Let another contender begin in every round."""
    first = (number - 1) % len(racing)
    return [*racing[first:], *racing[:first]]


def _taken(
    options: argparse.Namespace,
    turns: Turns,
    contender: Contender,
    variant: str,
    number: int,
    rows: Sequence[record.Row],
) -> list[record.Row]:
    """Take a turn unless it is in the record; return its rows, which are appended to it."""
    loads = [1] if contender.name == FINE_TUNING else options.connections
    if (number, contender.name, variant) in record.finished(rows, loads):
        return []
    when = "trial" if number == record.TRIAL else f"round {number} of {options.rounds}"
    _say(f"{when}: {contender.name}" + (f", {variant}" if variant != MOST else ""))
    take = turns.fine_tune if contender.name == FINE_TUNING else turns.take
    taken = take(contender, variant, number)
    for row in taken:
        append(options.csv, row)
    return taken


def _course(options: argparse.Namespace, scratch: Path) -> Course:
    return Course(
        models=options.models,
        model=options.model,
        connections=options.connections,
        seconds=options.seconds,
        trial_s=min(_TRIAL_S, options.seconds),
        warm_up_s=min(_WARM_UP_S, options.seconds),
        server_cores=options.server_cores,
        pair_cores=options.pair_cores,
        load_cores=options.load_cores,
        cache=options.cache,
        scratch=scratch,
    )


def _tell_result(rows: Sequence[record.Row], plot: Path | None) -> None:
    if not record.counted(rows):
        sys.exit("peers.race: expected a round that is over, got none.")
    print(tables(rows), end="\n\n")
    if plot is not None:
        draw(rows, plot)
        _say(f"drew {plot}")


def _say(told: str) -> None:
    print(told, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("peers.race", __doc__)
    versions.add_options(parser)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64], help="default: 1 16 64")
    parser.add_argument("--rounds", type=int, default=5, help="that count; default: 5")
    parser.add_argument("--seconds", type=int, default=3, help="of load at each number of connections; default: 3")
    parser.add_argument("--server-cores", default="0", help="of a server, as taskset -c reads them; default: 0")
    parser.add_argument("--pair-cores", default="0-1", help="of two replicas or processes; default: 0-1")
    parser.add_argument("--load-cores", default="1", help="of wrk; default: 1")
    names = [each.name for each in known()]
    listed = ", ".join(f"'{name}'" for name in names)
    parser.add_argument("--only", nargs="+", default=[], choices=names, metavar="NAME", help=f"beside ours: {listed}")
    parser.add_argument("--csv", type=Path, default=_RECORD, help=f"the record, appended to; default: {_RECORD}")
    parser.add_argument("--resume", action="store_true", help="go on with the record where it ends")
    parser.add_argument("--report", type=Path, metavar="CSV", help="measure nothing: tables and verdict of this record")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw the medians into this file")
    return parser
