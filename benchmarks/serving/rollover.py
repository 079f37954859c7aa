"""Rollovers under open-loop load: what fails, what is mixed, and what is late with a rollover and without one.

    python -m benchmarks serving.rollover [--rate 100] [--rollovers 10] [--csv FILE]

Copies of one published version are served from a folder of their own and activated one after the other; between two
rollovers the same load runs without one. Requests leave at random times that do not depend on the answers (Poisson),
and are timed from when they were to leave. One is late when that takes longer than ``--server-share-ms``, which is what
its budget leaves to the server. Load generator and server share the machine: choose a rate that it carries.
"""

import argparse
import math
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.server import RunningServer, start
from app.settings import AppSettings
from benchmarks.command_line import parser_of
from benchmarks.serving import versions
from benchmarks.serving.bodies import NO_NETWORK, bodies, encoded
from benchmarks.serving.open_loop import OpenLoop, quantile
from benchmarks.serving.record import append
from benchmarks.serving.verdict import Claim, at_most, conclude
from duet.evaluation.provenance import provenance
from duet.protocol.errors import DuetError
from duet.protocol.layers import LayerTable
from duet.protocol.package import ParameterPackage
from duet.registry import Registry
from duet.registry.copies import publish_copy

_PATIENCE_S, _POLL_S = 60.0, 0.01


@dataclass(frozen=True)
class Row:
    """What became of the requests of one stretch of time.

    Attributes:
        failed: Requests that were lost, the first time too.
        statuses: Every last status with its number.
        mixed: Answers whose package, header and version disagree.
        late: Answers after the server's share of the budget, and requests that were refused for want of time.
        flip_s: From the activation to the first answer of the new version; NaN if none came.
    """

    placement: str
    rate: float
    server_share_ms: float
    number: int
    rolls_over: bool
    sent: int
    failed: int
    statuses: str
    mixed: int
    late: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    flip_s: float
    hardware: str
    commit: str


def main(arguments: Sequence[str]) -> None:
    """Measure, print, append to a CSV file if asked to; exit with 1 if the claims do not hold."""
    options = _options(arguments)
    models, model = versions.chosen(options)
    rows = []
    with _copies(models, model, options.rollovers) as registry:
        settings = AppSettings(models=str(registry.root), model=model, placement=options.placement)
        with start(settings, port=0) as server:
            for row in _measured(server, registry, model, options):
                rows.append(row)
                _print(row)
                if options.csv is not None:
                    append(options.csv, row)
    conclude(claims(rows))


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Hold what was found against what was to be shown.

    More late answers with rollovers than without are due to them when chance alone, as of rare events, would not bring
    two standard deviations.
    """
    moving, steady = ([row for row in rows if row.rolls_over == rolls_over] for rolls_over in (True, False))
    sent = [sum(row.sent for row in phases) for phases in (moving, steady)]
    late = [sum(row.late for row in phases) for phases in (moving, steady)]
    expected = late[1] * sent[0] / sent[1] if sent[1] else math.nan
    is_chance = late[0] <= expected + 2 * math.sqrt(late[0] + late[1])
    finished = sum(not math.isnan(row.flip_s) for row in moving)
    return [
        Claim("rollovers that were answered for", f"{finished}", f"all {len(moving)}", 0 < finished == len(moving)),
        at_most("failed requests", sum(row.failed for row in rows), 0, ".0f"),
        at_most("answers of mixed versions", sum(row.mixed for row in rows), 0, ".0f"),
        Claim(
            "budgets missed because of rollovers",
            f"{late[0]} of {sent[0]} late with rollovers, {late[1]} of {sent[1]} without",
            "none beyond chance",
            is_chance,
        ),
    ]


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = parser_of("serving.rollover", __doc__)
    versions.add_options(parser)
    parser.add_argument("--placement", choices=["colocated", "split"], default="colocated")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--phase-s", type=float, default=6.0, help="how long each phase lasts")
    parser.add_argument("--rollovers", type=int, default=10)
    parser.add_argument("--server-share-ms", type=float, default=50.0, help="budget beyond the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    return parser.parse_args(arguments)


@contextmanager
def _copies(models: Path, model: str, count: int) -> Iterator[Registry]:
    """Publish a version under ``count + 1`` names, in a folder of their own, and pin the first."""
    original = Registry(models).open(model)
    with tempfile.TemporaryDirectory(prefix="duet-rollover-") as folder:
        registry = Registry(folder)
        for number in range(count + 1):
            publish_copy(original, registry, f"copy-{number}")
        registry.activate(model, "copy-0")
        yield registry


def _measured(server: RunningServer, registry: Registry, model: str, options: argparse.Namespace) -> Iterator[Row]:
    asked = encoded(bodies(registry.root, model, budget_ms=options.server_share_ms, link=NO_NETWORK))
    known = [registry.open(model, name) for name in registry.versions(model)]
    digests, layers = {version.version: version.digest for version in known}, known[0].manifest.layers

    def phase(number: int, *, rolls_over: bool) -> Row:
        seen = _Seen(digests, layers)
        load = OpenLoop(
            f"{server.url}/v1/models/{model}/parameters",
            asked,
            options.server_share_ms,
            lambda _: options.rate,
            seed=options.seed + number,
            inspect=seen,
        )
        sending = threading.Thread(target=load.run, args=(options.phase_s,))
        sending.start()
        flip_s = _flip(registry, model, f"copy-{number}", seen) if rolls_over else 0.0
        sending.join()
        return _row(options, number, rolls_over, load, seen, flip_s)

    phase(0, rolls_over=False)  # what has never run is slow once; not in the record
    for number in range(1, options.rollovers + 1):
        for rolls_over in (False, True):
            yield phase(number, rolls_over=rolls_over)


def _flip(registry: Registry, model: str, name: str, seen: "_Seen") -> float:
    """Activate a copy; return the seconds until it answers, NaN if it never does."""
    started_s = time.monotonic()
    registry.activate(model, name)
    while time.monotonic() - started_s < _PATIENCE_S:
        if name in seen.versions:
            return time.monotonic() - started_s
        time.sleep(_POLL_S)
    return math.nan


@dataclass
class _Seen:
    """Looks at every answer, and believes none."""

    digests: Mapping[str, bytes]
    layers: LayerTable
    versions: set[str] = field(default_factory=set)
    mixed: int = 0

    def __call__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        if status != 200:
            return
        name = headers["duet-model-version"]
        self.versions.add(name)
        digest = self.digests[name]
        try:
            ParameterPackage.decode(content, self.layers, version=digest)
        except DuetError:
            self.mixed += 1
            return
        self.mixed += headers["duet-version"] != digest.hex()


def _row(options: argparse.Namespace, number: int, rolls_over: bool, load: OpenLoop, seen: _Seen, flip_s: float) -> Row:
    waits_ms = [reply.latency_ms for reply in load.replies if reply.status == 200]
    statuses, known = Counter(reply.status for reply in load.replies), provenance()
    return Row(
        placement=options.placement,
        rate=options.rate,
        server_share_ms=options.server_share_ms,
        number=number,
        rolls_over=rolls_over,
        sent=len(load.replies),
        failed=sum(reply.retried or reply.outcome == "failed" for reply in load.replies),
        statuses=" ".join(f"{status}:{count}" for status, count in sorted(statuses.items())),
        mixed=seen.mixed,
        late=sum(reply.outcome in ("late", "refused") for reply in load.replies),
        p50_ms=quantile(waits_ms, 0.5),
        p99_ms=quantile(waits_ms, 0.99),
        longest_ms=max(waits_ms, default=math.nan),
        flip_s=flip_s,
        hardware=str(known["hardware"]),
        commit=str(known["commit"]),
    )


def _print(row: Row) -> None:
    what = f"rollover {row.number}, {row.flip_s:.2f} s to the first answer" if row.rolls_over else "steady"
    print(
        f"{row.sent:6} sent, {row.failed} failed, {row.mixed} mixed, {row.late} late; "
        f"p50 {row.p50_ms:.1f} p99 {row.p99_ms:.1f} max {row.longest_ms:.1f} ms; {what}",
        flush=True,
    )
