"""Fuzzes a running server: requests from its OpenAPI document, and uploads damaged byte by byte.

    python -m benchmarks serving.fuzz [--csv FILE]
    python -m benchmarks serving.fuzz --models models --model demo --url http://127.0.0.1:8000 --pid 1234

Without ``--url`` it starts ``duet serve``. ``--examples`` are drawn at random and shared by the operations that take
something; one that takes nothing has one request, which every round repeats. The limits of all schemas come on top.
Exits with 1 if there were fewer, if an operation had none, if an answer was not as documented, came too late or not at
all, if the server does not answer a good request afterwards, or if the gateway's memory or descriptors grew.
"""

import argparse
import http.client
import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings

from benchmarks.command_line import parser_of
from benchmarks.serving import versions
from benchmarks.serving.closed_loop import write_bodies
from benchmarks.serving.contract import DESIGNED, ContractRun, operations_of, run_contract
from benchmarks.serving.pinned import gateway_of, ours, pinned
from benchmarks.serving.record import append
from benchmarks.serving.uploads import Upload, complaint, embedded, exchange, uploads
from benchmarks.serving.verdict import Claim, at_least, at_most, conclude
from duet.evaluation.provenance import provenance
from duet.registry import Registry

FLAT_BYTES_PER_REQUEST = 256
"""A slope of resident memory below this is noise of the allocator."""

MORE_DESCRIPTORS = 8

UPLOADS = "damaged uploads"
"""In the record, beside the operations."""

_BODIES, _BUDGET_MS, _ROUNDS = 8, 5_000.0, 10
_MIB = 2**20


@dataclass(frozen=True)
class Row:
    """What came of an operation, or of the damaged uploads together; memory is of the gateway over the whole run.

    Attributes:
        part: The operation, or ``damaged uploads``.
        examples: Requests.
        drawn: Of these, drawn at random; the others are the limits of schemas.
        designed_5xx: Answers of 503 and 504, which the document promises.
        undesigned_5xx: The other answers of 500 and above.
        closed: Connections that were closed without an answer, as those of broken framing may be.
        unanswered: Requests that got no answer in time.
        slowest_ms: The longest time to the end of an answer.
        resident_before_mib: After the warm-up; NaN where the gateway was not watched.
        resident_after_mib: At the end.
        resident_slope: Bytes a request, over the second half of the requests.
        seed: Of what was drawn.
    """

    part: str
    examples: int
    drawn: int
    answered_2xx: int
    answered_3xx: int
    answered_4xx: int
    designed_5xx: int
    undesigned_5xx: int
    closed: int
    unanswered: int
    slowest_ms: float
    resident_before_mib: float
    resident_after_mib: float
    resident_slope: float
    seed: int
    hardware: str
    commit: str


@dataclass
class UploadRun:
    """What came of the damaged uploads.

    Attributes:
        statuses: Answers by what was damaged and by status; 0 where the connection was closed without one.
        slowest_s: The longest time to the end of an answer.
        failures: What is wrong with an answer, with the request that got it.
    """

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest_s: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)


class Replica:
    """The process that answers; its memory and descriptors are read as the fuzzing goes on."""

    def __init__(self, process: psutil.Process) -> None:
        """Watch a process."""
        self._process = process
        self.readings: list[tuple[int, int]] = []
        """Requests so far, resident bytes; the first before any."""
        self.descriptors: list[int] = []

    def read(self, requests: int) -> None:
        """Take a reading after so many requests."""
        self.readings.append((requests, self._process.memory_info().rss))
        self.descriptors.append(self._process.num_fds())

    @property
    def more_descriptors(self) -> int:
        """How many more are open at the end than after the first round, which opens what is opened once."""
        return self.descriptors[-1] - self.descriptors[1]

    @property
    def slope(self) -> float:
        """Resident bytes per request, over the second half: caches and arenas fill in the first."""
        late = self.readings[len(self.readings) // 2 :]
        return statistics.linear_regression(*zip(*late, strict=True)).slope


def run_uploads(url: str, model: str, bodies: Sequence[bytes], *, count: int, start: int, outcome: UploadRun) -> None:
    """Send damaged requests, one after the other, and add what comes back.

    Args:
        url: Where the server is.
        model: Whose parameters.
        bodies: Good requests.
        count: How many to send.
        start: Seed.
        outcome: Is added to.
    """
    place = urlsplit(url)
    host, port = str(place.hostname), int(place.port or 80)

    @seed(start)
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=[*HealthCheck], phases=[Phase.generate]
    )
    @given(upload=uploads(f"/v1/models/{model}/parameters", bodies))
    def send(upload: Upload) -> None:
        try:
            reply = exchange(host, port, upload)
        except TimeoutError:
            outcome.statuses[upload.damage, "none"] += 1
            outcome.failures[f"no end of the answer to {upload.content[:1000]!r}"] += 1
            return
        outcome.statuses[upload.damage, str(reply.status)] += 1
        outcome.slowest_s = max(outcome.slowest_s, reply.took_s)
        wrong = complaint(upload, reply)
        if wrong is not None:
            outcome.failures[f"{upload.damage}: {wrong}: {upload.content[:1000]!r}"] += 1

    send()


def main(arguments: Sequence[str]) -> None:
    """Fuzz, print what came back, append to a CSV file if asked to; exit with 1 if the claims do not hold."""
    options = _parser().parse_args(arguments)
    options.models, options.model = versions.chosen(options)
    lines = _good_requests(options.models, options.model)
    contract, damaged = ContractRun(), UploadRun()
    with _server(options) as (url, replica):
        operations = operations_of(url)
        _warm_up(url, options.model, lines, options.warm_up)
        _read(replica, 0)
        for number in range(_ROUNDS):
            _round(options, number, url, lines, operations, contract, damaged)
            _read(replica, contract.examples + damaged.statuses.total())
        headers = {"content-type": "application/json"}
        answer = httpx.post(
            f"{url}/v1/models/{options.model}/parameters", content=lines[0], headers=headers, timeout=30
        )
    found = list(rows(operations, contract, damaged, replica, start=options.seed))
    if options.csv is not None:
        for row in found:
            append(options.csv, row)
    slowest_s = max(contract.slowest_s.values(), default=math.nan)
    _print_statuses("requests from the OpenAPI document", contract.statuses, slowest_s, contract.drawn)
    _print_statuses(UPLOADS, damaged.statuses, damaged.slowest_s)
    failures = contract.failures + damaged.failures
    for failure, times in failures.items():
        print(f"FAILED {times} times: {failure}")
    if replica is not None:
        _print_readings(replica)
    told = claims(found, replica, examples=options.examples, damaged=options.uploads)
    is_good = Claim("a good request afterwards", f"{answer.status_code}", "200", answer.status_code == 200)
    conclude([*told, at_most("answers that are not as documented", failures.total(), 0, ",.0f"), is_good])


def rows(
    operations: Mapping[str, bool], contract: ContractRun, damaged: UploadRun, replica: Replica | None, *, start: int
) -> Iterator[Row]:
    """Sum up what came of every operation, those without a request too, and of the uploads.

    Args:
        operations: Of the document.
        contract: What came of its requests.
        damaged: And of the uploads.
        replica: The gateway, if it was watched.
        start: Seed.
    """
    by_part: dict[str, Counter[str]] = {part: Counter() for part in (*operations, UPLOADS)}
    for (operation, status), number in contract.statuses.items():
        by_part.setdefault(operation, Counter())[status] += number
    for (_, status), number in damaged.statuses.items():
        by_part[UPLOADS][status] += number
    resident = [math.nan] if replica is None else [read / _MIB for _, read in replica.readings]
    known = provenance()
    for part, statuses in by_part.items():
        is_upload = part == UPLOADS
        yield Row(
            part=part,
            examples=statuses.total(),
            drawn=statuses.total() if is_upload else contract.drawn[part],
            answered_2xx=_of_class(statuses, "2"),
            answered_3xx=_of_class(statuses, "3"),
            answered_4xx=_of_class(statuses, "4"),
            designed_5xx=sum(statuses[status] for status in DESIGNED),
            undesigned_5xx=_of_class(statuses, "5") - sum(statuses[status] for status in DESIGNED),
            closed=statuses["0"],
            unanswered=statuses["none"],
            slowest_ms=1000 * (damaged.slowest_s if is_upload else contract.slowest_s.get(part, math.nan)),
            resident_before_mib=resident[0],
            resident_after_mib=resident[-1],
            resident_slope=math.nan if replica is None else replica.slope,
            seed=start,
            hardware=str(known["hardware"]),
            commit=str(known["commit"]),
        )


def claims(found: Sequence[Row], replica: Replica | None, *, examples: int, damaged: int) -> list[Claim]:
    """Hold what was found against what was to be shown.

    Args:
        found: A row for each operation, and that of the uploads.
        replica: The gateway, if it was watched.
        examples: How many requests were to be drawn from the document.
        damaged: How many uploads were to be damaged.
    """
    operations = [row for row in found if row.part != UPLOADS]
    missed = [row.part for row in operations if not row.drawn]
    told = [
        at_least("requests drawn from the OpenAPI document", sum(row.drawn for row in operations), examples, ",.0f"),
        Claim(
            "operations with a request",
            f"{len(operations) - len(missed)} of {len(operations)}{', not ' if missed else ''}{', '.join(missed)}",
            "all",
            bool(operations) and not missed,
        ),
        at_least(UPLOADS, sum(row.drawn for row in found if row.part == UPLOADS), damaged, ",.0f"),
        at_most("answers of 500 and above that are not designed", sum(row.undesigned_5xx for row in found), 0, ",.0f"),
        at_most("requests without an answer in time", sum(row.unanswered for row in found), 0, ",.0f"),
    ]
    if replica is not None:
        slope, more = replica.slope, replica.more_descriptors
        told.append(at_most("slope of resident memory, bytes a request", slope, FLAT_BYTES_PER_REQUEST, ",.0f"))
        told.append(at_most("more descriptors than after the first round", more, MORE_DESCRIPTORS, ".0f"))
    return told


def _of_class(statuses: Mapping[str, int], first: str) -> int:
    return sum(number for status, number in statuses.items() if status[0] == first)


def _read(replica: Replica | None, requests: int) -> None:
    if replica is not None:
        replica.read(requests)


def _good_requests(models: Path, model: str) -> list[str]:
    """Make some, half of them of samples and half of embeddings where the version takes these."""
    lines = write_bodies(Path(os.devnull), models, model, budget_ms=_BUDGET_MS)[:_BODIES]
    registry = Registry(models)
    published = registry.open(model, registry.active(model))
    return [embedded(line, published) if place % 2 else line for place, line in enumerate(lines)]


def _warm_up(url: str, model: str, lines: Sequence[str], count: int) -> None:
    """Send good requests until what is kept of a bounded number of them, outside of our code too, is full."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    headers = {"content-type": "application/json"}
    for number in range(count):
        connection.request("POST", f"/v1/models/{model}/parameters", lines[number % len(lines)], headers)
        connection.getresponse().read()
    connection.close()


def _round(
    options: argparse.Namespace,
    number: int,
    url: str,
    lines: Sequence[str],
    operations: Mapping[str, bool],
    contract: ContractRun,
    damaged: UploadRun,
) -> None:
    """Send an equal part of what is left to send; memory is read between rounds."""
    left, varied = _ROUNDS - number, max(1, sum(operations.values()))
    good = [json.loads(line) for line in lines]
    run_contract(
        url,
        model=options.model,
        samples=[request["sample"] for request in good if "sample" in request],
        embeddings=[request["embedding"] for request in good if "embedding" in request],
        examples=max(1, -(-(options.examples - contract.drawn.total()) // (left * varied))),
        seed=options.seed + number,
        phases=("coverage", "fuzzing") if number == 0 else ("fuzzing",),
        outcome=contract,
    )
    count = -(-(options.uploads - damaged.statuses.total()) // left)
    bodies = [line.encode() for line in lines]
    run_uploads(url, options.model, bodies, count=count, start=options.seed + number, outcome=damaged)


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[str, Replica | None]]:
    if options.url is not None:
        yield options.url, None if options.pid is None else Replica(psutil.Process(options.pid))
        return
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    with pinned(ours(options.models, options.model), cores=cores) as url:
        yield url, Replica(gateway_of(os.getpid()))


def _print_statuses(
    title: str, statuses: Counter[tuple[str, str]], slowest_s: float, drawn: Mapping[str, int] | None = None
) -> None:
    print(f"{title}: {statuses.total():,}, slowest answer {slowest_s:.3f} s")
    for name in dict.fromkeys(name for name, _ in sorted(statuses)):
        those = {status: count for (other, status), count in sorted(statuses.items()) if other == name}
        sent = f"{sum(those.values()):7,}" + ("" if drawn is None else f", {drawn[name]:6,} of them drawn")
        print(f"  {name:<40}{sent}  {', '.join(f'{status}: {count:,}' for status, count in those.items())}")


def _print_readings(replica: Replica) -> None:
    resident = ", ".join(f"{resident / _MIB:.1f}" for _, resident in replica.readings)
    print(f"resident memory of the gateway at first and after each round, MiB: {resident}")
    print(f"open descriptors of the gateway, likewise: {', '.join(map(str, replica.descriptors))}")


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.fuzz", __doc__)
    versions.add_options(parser)
    parser.add_argument("--url", help="of a server of that model that runs already; one is started by default")
    parser.add_argument("--pid", type=int, help="of its gateway, to watch memory and descriptors; only with --url")
    parser.add_argument("--examples", type=int, default=10_000, help="drawn from the OpenAPI document; default: 10000")
    parser.add_argument("--uploads", type=int, default=10_000, help="damaged ones; default: 10000")
    parser.add_argument("--warm-up", type=int, default=40_000, help="good requests before the first; default: 40000")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--csv", type=Path, help="append what came of each operation to this file")
    return parser
