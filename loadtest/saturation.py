"""Finds the capacity: ``python -m loadtest.saturation --host URL --report DIR``.

Ever more users without pauses, each waiting for its reply: a closed loop, whose latencies say nothing about what
devices get (they come regardless), and whose throughput says what the server can do at most. No Locust: what that takes
for a request would be what is found.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtest.lean_client import LeanClient
from loadtest.lean_processes import (
    Part,
    add_lean_options,
    interruptible,
    requests_of,
    run_part,
    run_together,
    target_of,
    whole,
)
from loadtest.options import at_least
from loadtest.prepared import judged
from loadtest.report import write_report
from loadtest.run import LoadPlan, Run
from loadtest.shapes import Phase, Role, Shape
from loadtest.timeline import Timeline

_RAMP_S = 2.0
_REQUESTS = 2000


def stairs(connections: Sequence[int], step_s: float) -> Shape:
    """Make a shape whose loads are users: up to each number for two seconds, which do not count, then measured."""
    phases = []
    for users in connections:
        phases.append(Phase(name=f"to {users}", seconds=_RAMP_S, load=users, role=Role.WARM_UP))
        phases.append(Phase(name=f"{users} users", seconds=step_s, load=users))
    return Shape(about="Ever more users without pauses.", phases=tuple(phases))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the report, and return the exit code: 2 where nothing could be asked."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    interruptible()
    shape = stairs(options.connections, options.step_s)
    try:
        if options.part is not None:
            run_part(options, lambda part: _users(options, shape, part))
            return 0
        target_of(options).served()  # what is wrong with it is said once
        found = run_together("loadtest.saturation", arguments, options.processes, meanwhile=lambda *_: None)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    told = ("model", "world", "mix", "server_share_ms", "seed", "processes")
    run = Run(
        timeline=found.timeline,
        plan=LoadPlan("saturation", "saturation", shape),
        ran_s=found.ran_s,
        host=options.host,
        options={name: str(getattr(options, name)) for name in told},
    )
    result = write_report(Path(options.report), run, Path(options.slo))
    for line in result.lines:
        print(line, file=sys.stderr)
    return result.exit_code


def _users(options: Namespace, shape: Shape, part: Part) -> tuple[LeanClient, Callable[[], Timeline]]:
    target = target_of(options)
    served = target.served()
    requests = requests_of(options, part, target, served, count=_REQUESTS)
    client = LeanClient(options.host, [each.message for each in requests])

    def run() -> Timeline:
        # the remainder goes to the first ones
        users = lambda now_s: (round(shape.load_at(now_s)) + part.count - 1 - part.number) // part.count  # noqa: E731
        client.saturate(users, shape.seconds)
        return judged(client.exchanges, requests, [served], is_open_loop=False)

    return client, run


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m loadtest.saturation", description=__doc__, allow_abbrev=False)
    add_lean_options(parser)
    parser.add_argument("--connections", type=whole, nargs="+", default=[1, 4, 16, 64], help="numbers of users")
    parser.add_argument("--step-s", type=at_least(1), default=8.0, help="how long each of them asks; default: 8")
    return parser


if __name__ == "__main__":
    sys.exit(main())
