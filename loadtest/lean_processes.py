"""Processes of the lean client that begin together: each prepares, waits for the word, sends its part, and judges it.

The process that started them sends nothing: it lets events happen, counts replicas, adds the seconds up and writes the
report. A part is the same program with ``--part NUMBER/COUNT --seconds-to FILE``.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.lean_client import LeanClient
from loadtest.options import at_least, existing_file
from loadtest.prepared import Mistakes, PreparedRequest, Target, prepare
from loadtest.profiles import SERVER_SHARE_MS, WORLDS, load_mixes
from loadtest.replies import ServedVersion
from loadtest.slo import SLO_FILE
from loadtest.timeline import CPU, IN_FLIGHT, Timeline

_READY, _GO = "ready\n", "go\n"
_STOP_S = 30.0
_POLL_S = 0.2


@dataclass(frozen=True)
class Part:
    """Which of how many processes this one is."""

    number: int = 0
    count: int = 1

    @classmethod
    def read(cls, text: str) -> "Part":
        """Read ``NUMBER/COUNT``."""
        number, count = text.split("/")
        return cls(int(number), int(count))


@dataclass
class Together:
    """What all parts did: the seconds, and how long the shortest of them ran."""

    timeline: Timeline = field(default_factory=Timeline)
    ran_s: float = float("inf")


def add_lean_options(parser: ArgumentParser) -> None:
    """Add what every run of the lean client may choose."""
    parser.add_argument("--host", required=True, help="address of the server, such as http://127.0.0.1:8000")
    parser.add_argument("--report", required=True, help="folder for report.html, report.json and seconds.csv")
    parser.add_argument("--processes", type=whole, default=1, help="that share the load; one fills a core")
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
    parser.add_argument("--api-key", default=os.environ.get("DUET_API_KEY", ""), help="where the server asks for one")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--slo", default=str(SLO_FILE), type=existing_file, help="file of objectives")
    parser.add_argument("--part", default=None, type=Part.read, help=SUPPRESS)
    parser.add_argument("--seconds-to", default="", help=SUPPRESS)


def whole(text: str) -> int:
    """Read a number of at least one."""
    return int(at_least(1)(text))


def target_of(options: Namespace) -> Target:
    """Say whom a run asks."""
    return Target(options.host, options.model, options.api_key)


def seed_of(options: Namespace, part: Part) -> int:
    """Return what a part draws with: another number for each."""
    return int(options.seed) * part.count + part.number


def requests_of(
    options: Namespace,
    part: Part,
    target: Target,
    served: ServedVersion,
    *,
    count: int,
    mistakes: Mistakes | None = None,
) -> list[PreparedRequest]:
    """Make the requests of a part.

    Args:
        options: Of this process.
        part: Which one it is.
        target: Whom it asks.
        served: What is served there.
        count: How many requests.
        mistakes: How many of them are wrong on purpose; none by default.

    Raises:
        ValueError: If the server does not answer with a package.
    """
    return prepare(
        target,
        served,
        world=options.world,
        mix=load_mixes()[options.mix],
        count=count,
        server_share_ms=options.server_share_ms,
        is_forgetful=options.forgetful,
        mistakes=mistakes,
        seed=seed_of(options, part),
    )


def interruptible() -> None:
    """Have SIGTERM end a run as Ctrl-C does, with a report; also where a shell has had SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def run_part(options: Namespace, prepare: Callable[[Part], tuple[LeanClient, Callable[[], Timeline]]]) -> None:
    """Be one part: prepare, wait for the word, run, and write the seconds.

    Args:
        options: Of this process.
        prepare: Makes the client, and what runs and judges it.
    """
    client, run = prepare(options.part)
    print(_READY, end="", flush=True)
    if sys.stdin.readline() != _GO:
        return
    timeline = run()
    for second, share in client.cpu.items():
        timeline.at(second).gauge(CPU, share)
    for second, count in client.under_way.items():
        timeline.at(second).gauge(IN_FLIGHT, count)
    Path(options.seconds_to).write_text(
        json.dumps({"seconds": timeline.to_json(), "ran_s": client.ran_s}), encoding="utf-8"
    )


def run_together(
    module: str, arguments: Sequence[str], processes: int, *, meanwhile: Callable[[Together, float], None]
) -> Together:
    """Run all parts to their end; Ctrl-C ends them early.

    Args:
        module: The program.
        arguments: Of it.
        processes: How many.
        meanwhile: Called five times a second with what is known so far and the time of the run, in seconds.

    Raises:
        ValueError: If a part is not ready; it has said why.
    """
    found = Together()
    with ExitStack() as started:
        folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="duet-load-")))
        files = [folder / str(number) for number in range(processes)]
        parts = [
            started.enter_context(_part(module, [*arguments, "--part", f"{number}/{processes}"], file))
            for number, file in enumerate(files)
        ]
        try:
            if [part.stdout.readline() for part in parts if part.stdout] != [_READY] * processes:
                raise ValueError("Expected every process of the load generator to be ready, got one that is not.")
            for part in parts:
                assert part.stdin is not None
                part.stdin.write(_GO)
                part.stdin.flush()
            _watch(parts, found, meanwhile)
        finally:
            for part in parts:
                part.kill()
        if not all(file.is_file() for file in files):
            raise ValueError(
                "Expected every process of the load generator to end with its result, got one that did not."
            )
        for file in files:
            told = json.loads(file.read_text(encoding="utf-8"))
            found.timeline.merge(told["seconds"])
            found.ran_s = min(found.ran_s, told["ran_s"])
    return found


def _watch(
    parts: "Sequence[subprocess.Popen[str]]", found: Together, meanwhile: Callable[[Together, float], None]
) -> None:
    started_s, wake = time.monotonic(), threading.Event()
    try:
        while any(part.poll() is None for part in parts):
            meanwhile(found, time.monotonic() - started_s)
            wake.wait(_POLL_S)
    except KeyboardInterrupt:
        for part in parts:
            part.send_signal(signal.SIGINT)
        for part in parts:
            part.wait(_STOP_S)


def _part(module: str, arguments: Sequence[str], file: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments, "--seconds-to", str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is passed on, once
    )
