"""Fuzzes a running server: requests from its OpenAPI document, and uploads damaged byte by byte.

python -m benchmarks serving.fuzz
python -m benchmarks serving.fuzz --models models --model demo --url http://127.0.0.1:8000 --pid 1234

Without ``--url`` it starts ``duet serve``. Exits with 1 if an answer was not as documented, came too late or not at
all, if the server does not answer a good request afterwards, or if the gateway's memory or descriptors grew.
"""

import argparse
import http.client
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
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
from benchmarks.serving.contract import ContractRun, run_contract
from benchmarks.serving.pinned import gateway_of, ours, pinned
from benchmarks.serving.uploads import Upload, complaint, embedded, exchange, uploads
from duet.registry import Registry

FLAT_BYTES_PER_REQUEST = 256
"""A slope of resident memory below this is noise of the allocator."""

MORE_DESCRIPTORS = 8

_BODIES, _BUDGET_MS, _ROUNDS = 8, 5_000.0, 10
# those that take something: the others have one request each, and those that coverage makes
_VARIED_OPERATIONS = 3
_MIB = 2**20


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
        """Requests so far, resident bytes."""
        self.descriptors: list[int] = []

    def read(self, requests: int) -> None:
        """Take a reading after so many requests."""
        self.readings.append((requests, self._process.memory_info().rss))
        self.descriptors.append(self._process.num_fds())

    @property
    def more_descriptors(self) -> int:
        """How many more are open at the end than after the first round."""
        return self.descriptors[-1] - self.descriptors[0]

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
    """Fuzz, print what came back, and exit with 1 if something does not hold."""
    options = _parser().parse_args(arguments)
    options.models, options.model = versions.chosen(options)
    lines = _good_requests(options.models, options.model)
    contract, damaged = ContractRun(), UploadRun()
    with _server(options) as (url, replica):
        _warm_up(url, options.model, lines, options.warm_up)
        for number in range(_ROUNDS):
            _round(options, number, url, lines, contract, damaged)
            if replica is not None:
                replica.read(contract.examples + damaged.statuses.total())
        headers = {"content-type": "application/json"}
        answer = httpx.post(
            f"{url}/v1/models/{options.model}/parameters", content=lines[0], headers=headers, timeout=30
        )
    _print_statuses("requests from the OpenAPI document", contract.statuses, contract.slowest_s[0])
    _print_statuses("damaged uploads", damaged.statuses, damaged.slowest_s)
    failures = contract.failures + damaged.failures
    for failure, times in failures.items():
        print(f"FAILED {times} times: {failure}")
    print(f"a good request afterwards: {answer.status_code}")
    is_enough = contract.examples >= options.examples and damaged.statuses.total() >= options.uploads
    print(f"as many requests as asked for: {'yes' if is_enough else 'no'}")
    is_flat = replica is None or _print_flatness(replica)
    sys.exit(0 if is_enough and is_flat and answer.status_code == 200 and not failures else 1)


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
    contract: ContractRun,
    damaged: UploadRun,
) -> None:
    """Send an equal part of what is left to send; memory is read between rounds."""
    left = _ROUNDS - number
    good = [json.loads(line) for line in lines]
    run_contract(
        url,
        model=options.model,
        samples=[request["sample"] for request in good if "sample" in request],
        embeddings=[request["embedding"] for request in good if "embedding" in request],
        examples=-(-max(0, options.examples - contract.examples) // (left * _VARIED_OPERATIONS)) + 1,
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


def _print_statuses(title: str, statuses: Counter[tuple[str, str]], slowest_s: float) -> None:
    print(f"{title}: {statuses.total():,}, slowest answer {slowest_s:.3f} s")
    for name in dict.fromkeys(name for name, _ in sorted(statuses)):
        counts = [f"{status}: {count:,}" for (other, status), count in sorted(statuses.items()) if other == name]
        print(f"  {name:<40} {', '.join(counts)}")


def _print_flatness(replica: Replica) -> bool:
    resident = ", ".join(f"{resident / _MIB:.1f}" for _, resident in replica.readings)
    print(f"resident memory of the gateway after each round, MiB: {resident}")
    print(
        f"  slope over the second half: {replica.slope:+.0f} bytes a request; up to {FLAT_BYTES_PER_REQUEST} are flat"
    )
    print(f"open descriptors of the gateway: {replica.descriptors[0]} at first, {replica.descriptors[-1]} at last")
    return replica.slope <= FLAT_BYTES_PER_REQUEST and replica.more_descriptors <= MORE_DESCRIPTORS


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.fuzz", __doc__)
    versions.add_options(parser)
    parser.add_argument("--url", help="of a server of that model that runs already; one is started by default")
    parser.add_argument("--pid", type=int, help="of its gateway, to watch memory and descriptors; only with --url")
    parser.add_argument("--examples", type=int, default=10_000, help="from the OpenAPI document; default: 10000")
    parser.add_argument("--uploads", type=int, default=10_000, help="damaged ones; default: 10000")
    parser.add_argument("--warm-up", type=int, default=40_000, help="good requests before the first; default: 40000")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser
