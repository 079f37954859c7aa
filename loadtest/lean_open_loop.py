"""Devices that come regardless, cheaply: ``python -m loadtest.lean_open_loop --host URL --shape step --rate 2000 ...``.

The open loop of ``open_loop.py`` for rates at which Locust would be the limit: the same shapes, arrivals, networks,
budgets, retries and faulty requests. What differs is that requests are made before the clock runs, so that a device
says it holds what it would have got and not what it got. Replies are verified when the clock has stopped, every one.
"""

import shlex
import subprocess
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from loadtest.arrivals import arrivals
from loadtest.lean_client import LeanClient
from loadtest.lean_processes import (
    Part,
    Together,
    add_lean_options,
    interruptible,
    requests_of,
    run_part,
    run_together,
    seed_of,
    target_of,
    whole,
)
from loadtest.options import at_least, event_command, existing_file, share
from loadtest.prepared import Mistakes, judged, versions_of
from loadtest.replicas import count_replicas
from loadtest.report import write_report
from loadtest.run import Event, LoadPlan, Run, Saturation
from loadtest.shapes import SHAPES_FILE, Shape, load_shapes
from loadtest.timeline import Timeline
from loadtest.updates import RetryPolicy

_REQUESTS = 4000
_REPLICAS_EVERY_S = 2.0
_TOO_LATE = 504


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the report, and return the exit code: 2 where nothing could be asked."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    interruptible()
    try:
        shape = _shape(options)
        if options.part is not None:
            run_part(options, lambda part: _arriving(options, shape, part))
            return 0
        saturation = Saturation.read(Path(options.saturation)) if options.saturation else None
        target_of(options).served()  # what is wrong with it is said once
        beside = _Beside(options.host, shape, dict(options.on))
        found = run_together("loadtest.lean_open_loop", arguments, options.processes, meanwhile=beside.look)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    told = ("model", "world", "mix", "server_share_ms", "retries", "malformed_share", "seed", "processes")
    beside.end(found)
    found.timeline.settle()
    run = Run(
        timeline=found.timeline,
        plan=LoadPlan("open", options.shape, shape, options.rate, saturation),
        ran_s=found.ran_s,
        host=options.host,
        events=tuple(beside.events),
        options={name: str(getattr(options, name)) for name in told},
    )
    result = write_report(Path(options.report), run, Path(options.slo))
    for line in result.lines:
        print(line, file=sys.stderr)
    return result.exit_code


class _Beside:
    """What happens besides the load: the events of a shape, and somebody who counts replicas."""

    def __init__(self, host: str, shape: Shape, commands: dict[str, str]) -> None:
        self._host, self._commands = host, commands
        self._coming, self._threads = list(shape.events), list[threading.Thread]()
        self._counting: threading.Thread | None = None
        self._counted: list[tuple[float, dict[str, int]]] = []
        self._counted_s = -_REPLICAS_EVERY_S
        self.events: list[Event] = []

    def look(self, _found: Together, now_s: float) -> None:
        """Let happen what is due."""
        while self._coming and self._coming[0][0] <= now_s:
            _, name = self._coming.pop(0)
            self._threads.append(threading.Thread(target=self._happen, args=(name, now_s)))
            self._threads[-1].start()
        is_idle = self._counting is None or not self._counting.is_alive()
        if is_idle and now_s >= self._counted_s + _REPLICAS_EVERY_S:
            self._counted_s = now_s
            self._counting = threading.Thread(target=self._count, args=(now_s,))
            self._counting.start()

    def end(self, found: Together) -> None:
        """Wait for what is under way, and add what was counted."""
        for thread in (*self._threads, *([self._counting] if self._counting else [])):
            thread.join()
        for at_s, replicas in self._counted:
            for deployment, count in replicas.items():
                found.timeline.at(at_s).gauge(f"replicas/{deployment}", count)

    def _happen(self, name: str, at_s: float) -> None:
        done = subprocess.run(
            shlex.split(self._commands[name]), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode:
            print(f"The command of {name} failed: {done.stdout.decode(errors='replace')[-2000:]}", file=sys.stderr)
        self.events.append(Event(at_s, name, done.returncode))

    def _count(self, at_s: float) -> None:
        self._counted.append((at_s, count_replicas(self._host)))


def _shape(options: Namespace) -> Shape:
    shapes = load_shapes(Path(options.shapes))
    if options.shape not in shapes:
        raise ValueError(f"Expected --shape to be one of {', '.join(shapes)}, got {options.shape}.")
    shape = shapes[options.shape].stretched(options.stretch)
    missing = sorted({name for _, name in shape.events} - dict(options.on).keys())
    if missing:
        raise ValueError(
            f"Expected a command for each event of the shape {options.shape}, got none for {', '.join(missing)}. "
            f"Add --on {missing[0]}='COMMAND'."
        )
    return shape


def _arriving(options: Namespace, shape: Shape, part: Part) -> tuple[LeanClient, Callable[[], Timeline]]:
    target = target_of(options)
    served = target.served()
    mistakes = Mistakes(options.malformed_share, options.oversized_share)
    requests = requests_of(options, part, target, served, count=_REQUESTS, mistakes=mistakes)
    client = LeanClient(options.host, [each.message for each in requests])
    draws, policy = Random(f"{seed_of(options, part)} arrivals"), RetryPolicy(most=options.retries)

    def retry(number: int, status: int, retries: int, retry_after_s: float) -> float | None:
        is_lost = status in (0, 408, 429) or (status >= 500 and status != _TOO_LATE)
        if not is_lost or retries >= policy.most or requests[number].faulty is not None:
            return None
        return policy.pause_s(retries, retry_after_s, draws)

    def run() -> Timeline:
        due = arrivals(lambda now_s: options.rate * shape.load_at(now_s) / part.count, draws, shape.seconds)
        client.arrive(due, shape.seconds, most=options.max_in_flight, retry=retry)
        versions = [served]
        if versions_of(client.exchanges) - {served.digest.hex()}:
            versions.append(target.served())
        return judged(client.exchanges, requests, versions, is_open_loop=True, dropped_s=client.dropped_s)

    return client, run


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m loadtest.lean_open_loop", description=__doc__, allow_abbrev=False)
    add_lean_options(parser)
    parser.add_argument("--shape", default="steady", help="how the load goes, a name of the file of shapes")
    parser.add_argument("--shapes", default=str(SHAPES_FILE), type=existing_file, help="file of shapes")
    parser.add_argument("--rate", type=at_least(0.001), default=50.0, help="updates a second at a load of 1")
    parser.add_argument("--stretch", type=at_least(0.001), default=1.0, help="make all phases longer, or shorter")
    parser.add_argument(
        "--max-in-flight", type=whole, default=1000, help="of each process; what comes beyond is dropped"
    )
    parser.add_argument("--retries", type=int, default=2, help="most retries of an update that was shed or lost")
    parser.add_argument(
        "--malformed-share", type=share, default=0.01, help="share of requests that are wrong on purpose"
    )
    parser.add_argument(
        "--oversized-share", type=share, default=0.001, help="share of those larger than a server reads"
    )
    parser.add_argument(
        "--on", action="append", type=event_command, default=[], metavar="EVENT=COMMAND", help="what to run at an event"
    )
    parser.add_argument(
        "--saturation", type=existing_file, help="report.json of a saturation run, to draw beside this one"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
