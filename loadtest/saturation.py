"""Finds the capacity: ``python -m loadtest.saturation --host URL --report DIR``.

Ever more users without pauses, each waiting for its reply: a closed loop, whose latencies say nothing about what
devices get (they come regardless), and whose throughput says what the server can do at most. No Locust: what that takes
for a request would be what is found. Several processes share the users.
"""

import json
import os
import signal
import subprocess
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.lean_client import LeanClient
from loadtest.options import at_least, existing_file
from loadtest.prepared import Target, judged, prepare
from loadtest.profiles import SERVER_SHARE_MS, WORLDS, load_mixes
from loadtest.report import write_report
from loadtest.run import LoadPlan, Run
from loadtest.shapes import Phase, Role, Shape
from loadtest.slo import SLO_FILE
from loadtest.timeline import CPU, Timeline

_RAMP_S = 2.0
_REQUESTS = 2000
_STOP_S = 10.0
_READY = "ready\n"


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
    # an end that is asked for is an end with a report, also where a shell has had SIGINT ignored
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    shape = stairs(options.connections, options.step_s)
    try:
        if options.processes == 1 or options.part:
            timeline, ran_s = _alone(options, shape)
        else:
            timeline, ran_s = _together(arguments, options, shape)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.part:
        json.dump({"seconds": timeline.to_json(), "ran_s": ran_s}, sys.stdout)
        return 0
    told = ("model", "world", "mix", "server_share_ms", "seed", "processes")
    run = Run(
        timeline=timeline,
        plan=LoadPlan("saturation", "saturation", shape),
        ran_s=ran_s,
        host=options.host,
        options={name: str(getattr(options, name)) for name in told},
    )
    result = write_report(Path(options.report), run, Path(options.slo))
    for line in result.lines:
        print(line, file=sys.stderr)
    return result.exit_code


def _alone(options: Namespace, shape: Shape) -> tuple[Timeline, float]:
    """Be all users, or those of one part; return what happened, and how long it ran."""
    number, count = (int(each) for each in (options.part or "0/1").split("/"))
    target = Target(options.host, options.model, options.api_key)
    served = target.served()
    requests = prepare(
        target,
        served,
        world=options.world,
        mix=load_mixes()[options.mix],
        count=_REQUESTS,
        server_share_ms=options.server_share_ms,
        is_forgetful=options.forgetful,
        seed=options.seed * count + number,
    )
    client = LeanClient(options.host, [each.message for each in requests], keep_every=options.verify_every)
    if options.part:
        print(_READY, end="", flush=True)
        sys.stdin.readline()
    # the remainder goes to the first ones
    client.saturate(lambda now_s: (round(shape.load_at(now_s)) + count - 1 - number) // count, shape.seconds)
    timeline = judged(client.exchanges, requests, served, is_open_loop=False)
    for second, share in client.cpu.items():
        timeline.at(second).gauge(CPU, share)
    return timeline, client.ran_s


def _together(arguments: Sequence[str], options: Namespace, shape: Shape) -> tuple[Timeline, float]:
    """Share the users among processes that begin together; return what happened in all of them."""
    parts = [
        subprocess.Popen(
            [sys.executable, "-m", "loadtest.saturation", *arguments, "--part", f"{number}/{options.processes}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is passed on, once
        )
        for number in range(options.processes)
    ]
    timeline, ran_s = Timeline(), shape.seconds
    try:
        if [part.stdout.readline() for part in parts if part.stdout] != [_READY] * len(parts):
            raise ValueError("Expected every process to be ready, got one that is not. It says above why.")
        for part in parts:
            assert part.stdin is not None
            part.stdin.write("go\n")
            part.stdin.flush()
        for part in parts:
            try:
                told, _ = part.communicate()
            except KeyboardInterrupt:
                for other in parts:
                    other.send_signal(signal.SIGINT)
                told, _ = part.communicate(timeout=_STOP_S)
            found: dict[str, Any] = json.loads(told)
            timeline.merge(found["seconds"])
            ran_s = min(ran_s, found["ran_s"])
    finally:
        for part in parts:
            part.kill()
            part.wait()
    return timeline, ran_s


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m loadtest.saturation", description=__doc__, allow_abbrev=False)
    parser.add_argument("--host", required=True, help="address of the server, such as http://127.0.0.1:8000")
    parser.add_argument("--report", required=True, help="folder for report.html, report.json and seconds.csv")
    parser.add_argument("--connections", type=_count, nargs="+", default=[1, 4, 16, 64], help="numbers of users")
    parser.add_argument("--step-s", type=at_least(1), default=8.0, help="how long each of them asks; default: 8")
    parser.add_argument("--processes", type=_count, default=1, help="that share the users; one fills a core")
    parser.add_argument("--model", default="demo", help="name of the served model; default: demo")
    parser.add_argument("--world", default="demo", choices=WORLDS, help="synthetic world that it was trained on")
    parser.add_argument("--mix", default="mobile", choices=sorted(load_mixes()), help="networks of the devices")
    parser.add_argument(
        "--server-share-ms",
        type=at_least(1),
        default=SERVER_SHARE_MS,
        help="budget beyond the network; a large one for a run that `duet plan` is to read. Default: 50",
    )
    parser.add_argument(
        "--forgetful", action="store_true", help="devices never say what they hold: every update is generated"
    )
    parser.add_argument("--verify-every", type=_count, default=10, help="one reply of so many is decoded; default: 10")
    parser.add_argument("--api-key", default=os.environ.get("DUET_API_KEY", ""), help="where the server asks for one")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--slo", default=str(SLO_FILE), type=existing_file, help="file of objectives")
    parser.add_argument("--part", default="", help=SUPPRESS)
    return parser


def _count(text: str) -> int:
    return int(at_least(1)(text))


if __name__ == "__main__":
    sys.exit(main())
