"""Rollovers under open-loop load: what fails, what is mixed, and what is late with a rollover and without one.

    python -m benchmarks serving.rollover [--models models] [--model demo] [--rate 100] [--rollovers 10] [--csv FILE]

Copies of one published version are served from a folder of their own and activated one after the other; between two
rollovers the same load runs without one. Requests leave at random times that do not depend on the answers (Poisson),
and are timed from when they were to leave. One is late when that takes longer than ``--server-share-ms``, which is what
its budget leaves to the server. Load generator and server share the machine: choose a rate that it carries.
"""

import argparse
import asyncio
import csv
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from app.server import RunningServer, start
from app.settings import AppSettings
from duet.evaluation.provenance import provenance
from duet.protocol.budget import PROFILES
from duet.protocol.errors import DuetError
from duet.protocol.package import ParameterPackage
from duet.registry import PublishedVersion, Registry

LINK = "wifi"
DEVICES = 1000


@dataclass
class Phase:
    """What became of the requests of one stretch of time."""

    number: int
    rolls_over: bool
    flip_s: float = 0.0
    waits_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    versions: list[str] = field(default_factory=list)
    mixed: int = 0


@dataclass(frozen=True)
class Row:
    """A phase in the record."""

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


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and append to a CSV file if asked to."""
    options = _options(arguments)
    with _copies(options.models, options.model, options.rollovers) as registry:
        settings = AppSettings(models=str(registry.root), placement=options.placement)
        with start(settings, port=0) as server:
            rows = asyncio.run(_measure(server, registry, options))
    _report(rows, options.csv)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks serving.rollover", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="where the version is published")
    parser.add_argument("--model", default="demo")
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
            _publish_copy(original, registry, f"copy-{number}")
        registry.activate(model, "copy-0")
        yield registry


def _publish_copy(original: PublishedVersion, registry: Registry, name: str) -> None:
    manifest = original.manifest
    with registry.publish(original.model, name) as pending:
        for file in manifest.files:
            shutil.copyfile(original.path(file), pending.folder / file)
        pending.commit(
            task=manifest.task,
            signature=original.signature(),
            layers=manifest.layers,
            embedding_dim=manifest.embedding_dim,
            rank=manifest.rank,
            heads=manifest.heads,
            representations=manifest.representations,
            training=dict(manifest.training) | {"copy_of": original.version},
        )


async def _measure(server: RunningServer, registry: Registry, options: argparse.Namespace) -> list[Row]:
    users = _Users(registry, options)
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
    async with httpx.AsyncClient(base_url=server.url, timeout=15, limits=limits) as client:
        await users.phase(
            client, Phase(0, rolls_over=False), options.phase_s
        )  # warms connections up; not in the record
        rows = []
        for number in range(1, options.rollovers + 1):
            for rolls_over in (False, True):
                phase = Phase(number, rolls_over)
                work = [users.phase(client, phase, options.phase_s)]
                if rolls_over:
                    work.append(_roll_over(registry, options.model, phase))
                await asyncio.gather(*work)
                rows.append(_row(phase, options))
                _print(rows[-1])
    return rows


async def _roll_over(registry: Registry, model: str, phase: Phase) -> None:
    """Activate the next copy, and see how long it takes until it answers."""
    started_s, name = time.perf_counter(), f"copy-{phase.number}"
    await asyncio.to_thread(registry.activate, model, name)
    while name not in phase.versions and time.perf_counter() - started_s < 60:
        await asyncio.sleep(0.01)
    phase.flip_s = time.perf_counter() - started_s


class _Users:
    """Sends requests at random times, and believes no answer."""

    def __init__(self, registry: Registry, options: argparse.Namespace) -> None:
        self._random, self._options = random.Random(options.seed), options
        versions = [registry.open(options.model, name) for name in registry.versions(options.model)]
        self._digests = {version.version: version.digest for version in versions}
        self._layers = versions[0].manifest.layers
        self._ids = versions[0].vocabulary().ids
        largest = max(record.package_bytes for record in versions[0].manifest.representations)
        network_ms = PROFILES[LINK].exchange_ms(request_bytes=500, response_bytes=largest)
        self._budget_ms = network_ms + options.server_share_ms

    async def phase(self, client: httpx.AsyncClient, phase: Phase, duration_s: float) -> None:
        """Send for a while, then wait for the last answer."""
        started_s = due_s = time.perf_counter()
        async with asyncio.TaskGroup() as sending:
            while due_s < started_s + duration_s:
                due_s += self._random.expovariate(self._options.rate)
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                sending.create_task(self._send(client, phase, due_s))

    async def _send(self, client: httpx.AsyncClient, phase: Phase, due_s: float) -> None:
        request = {
            "device": f"device-{self._random.randrange(DEVICES)}",
            "sample": self._random.choices(self._ids, k=10),
            "link": LINK,
            "budget_ms": round(self._budget_ms, 1),
        }
        try:
            answer = await client.post(f"/v1/models/{self._options.model}/parameters", json=request)
        except httpx.HTTPError:
            phase.statuses[0] += 1
            return
        phase.waits_ms.append((time.perf_counter() - due_s) * 1000)
        phase.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            phase.versions.append(answer.headers["duet-model-version"])
            phase.mixed += not self._is_of_one_version(answer)

    def _is_of_one_version(self, answer: httpx.Response) -> bool:
        digest = self._digests[answer.headers["duet-model-version"]]
        try:
            ParameterPackage.decode(answer.content, self._layers, version=digest)
        except DuetError:
            return False
        return answer.headers["duet-version"] == digest.hex()


def _row(phase: Phase, options: argparse.Namespace) -> Row:
    waits = sorted(phase.waits_ms)
    sent = sum(phase.statuses.values())
    return Row(
        placement=options.placement,
        rate=options.rate,
        server_share_ms=options.server_share_ms,
        number=phase.number,
        rolls_over=phase.rolls_over,
        sent=sent,
        failed=sent - phase.statuses[200],
        statuses=" ".join(f"{status}:{count}" for status, count in sorted(phase.statuses.items())),
        mixed=phase.mixed,
        late=sum(wait > options.server_share_ms for wait in waits),
        p50_ms=round(statistics.median(waits), 2),
        p99_ms=round(waits[int(len(waits) * 0.99)], 2),
        longest_ms=round(waits[-1], 2),
        flip_s=round(phase.flip_s, 2),
    )


def _print(row: Row) -> None:
    what = f"rollover {row.number}, {row.flip_s:.2f} s to the first answer" if row.rolls_over else "steady"
    print(
        f"{row.sent:6} sent, {row.failed} failed, {row.mixed} mixed, {row.late} late; "
        f"p50 {row.p50_ms:.1f} p99 {row.p99_ms:.1f} max {row.longest_ms:.1f} ms; {what}",
        flush=True,
    )


def _report(rows: Sequence[Row], path: Path | None) -> None:
    where = provenance()
    print(f"{where['hardware']}, commit {where['commit']}")
    for rolls_over in (False, True):
        phases = [row for row in rows if row.rolls_over == rolls_over]
        sent, failed, mixed, late = (sum(getattr(row, name) for row in phases) for name in _SUMS)
        what = f"{len(phases)} with a rollover" if rolls_over else f"{len(phases)} without"
        print(f"{what}: {sent} sent, {failed} failed, {mixed} mixed, {late} late ({late / sent:.2%})")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            records = [asdict(row) | {"hardware": where["hardware"], "commit": where["commit"]} for row in rows]
            writer = csv.DictWriter(file, records[0])
            if is_new:
                writer.writeheader()
            writer.writerows(records)


_SUMS = ("sent", "failed", "mixed", "late")
