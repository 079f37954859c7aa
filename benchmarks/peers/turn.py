"""One turn of the race: start a contender, hold its answers to ours, put it under load, look at its memory."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.peers.code_lines import folder_of, lines_of
from benchmarks.peers.contenders import PAIRS, PLAIN_WIRE, Contender, Setup, Wire
from benchmarks.peers.environment import ROOT, peers_interpreter, peers_variables
from benchmarks.peers.parity import first_difference
from benchmarks.peers.record import TRIAL, Row
from benchmarks.serving.closed_loop import ClosedLoop, load, write_bodies
from benchmarks.serving.contenders.job import Job
from benchmarks.serving.contenders.stages import Stages
from benchmarks.serving.pinned import pinned
from duet.evaluation.provenance import provenance
from duet.registry import Registry

COMPARED = 64
_AT_ONCE = 16
_ATTEMPTS = 3
_PAUSE_S = 1.0
_BUDGET_MS = 10_000
_MIB = 2**20


@dataclass(frozen=True)
class Course:
    """What every turn has in common.

    Attributes:
        models: Root of the model repository.
        model: Whose packages are asked for.
        connections: How many at once, one load after the other.
        seconds: Of each load.
        trial_s: Of each load in a trial.
        warm_up_s: Of load before.
        server_cores: Of one server, as ``taskset -c`` reads them.
        pair_cores: Of two replicas or processes.
        load_cores: Of the generator.
        cache: Where benchmarks keep things.
        scratch: Where the files of this race go.
    """

    models: Path
    model: str
    connections: Sequence[int]
    seconds: float
    trial_s: float
    warm_up_s: float
    server_cores: str
    pair_cores: str
    load_cores: str
    cache: Path
    scratch: Path


class Turns:
    """Takes turns on one course. What the answers are to be, the stages say themselves, without a server."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._bodies = write_bodies(course.scratch / "bodies.txt", course.models, course.model, budget_ms=_BUDGET_MS)
        registry = Registry(course.models)
        self._table = registry.open(course.model, registry.active(course.model)).manifest.layers
        self._expected = _computed(course.models, course.model, self._bodies[:COMPARED])
        known = provenance()
        self._hardware, self._commit = str(known["hardware"]), str(known["commit"])

    def take(self, contender: Contender, variant: str, number: int) -> list[Row]:
        """Run a contender once; return a row for every number of connections.

        Args:
            contender: Who.
            variant: Which of its setups.
            number: Of the round; that of a trial is shorter.

        Raises:
            RuntimeError: If it does not start, or gives other packages than the stages.
        """
        course, setup = self._course, contender.setups[variant]
        seconds = self._seconds(number)
        interpreter: Path | str = sys.executable
        variables: dict[str, str] = {}
        if contender.is_peer:
            interpreter, variables = peers_interpreter(course.cache), peers_variables(course.cache)
        cores = course.pair_cores if contender.name in PAIRS else course.server_cores
        command = setup.command(course.models, course.model)
        started_s = time.monotonic()
        with pinned(command, cores=cores, variables=variables, interpreter=interpreter) as url:
            _answers(url, course.model, self._bodies[:1], setup.wire)
            cold_start_s = time.monotonic() - started_s
            self._compare(contender, url, setup.wire)
            bodies = self._written(setup.wire)

            def loaded(connections: int, for_s: float) -> ClosedLoop:
                cores = course.load_cores
                return load(url, course.model, bodies, connections=connections, seconds=for_s, cores=cores)

            loaded(_AT_ONCE, course.warm_up_s)
            loops = {connections: loaded(connections, seconds) for connections in course.connections}
            resident_mib = _resident_mib(psutil.Process().children(recursive=True))
        return self._rows(contender, setup, variant, number, loops, cores, resident_mib, cold_start_s)

    def fine_tune(self, contender: Contender, variant: str, number: int) -> list[Row]:
        """Fine-tune on one core for as long as a load; there is one device, so one row.

        Raises:
            RuntimeError: If it fails.
        """
        course, setup = self._course, contender.setups[variant]
        command = [*setup.command(course.models, course.model), "--seconds", f"{self._seconds(number):g}"]
        started_s = time.time()
        done = subprocess.run(
            ["taskset", "-c", course.server_cores, sys.executable, *command],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"Expected {contender.name} to end well, got:\n{done.stderr[-2000:]}")
        told = json.loads(done.stdout)
        loop = ClosedLoop(told["updates_s"], told["p50_ms"], told["p95_ms"], told["p99_ms"], 0)
        cold_start_s, resident_mib = told["ready_s"] - started_s, told["resident_mib"]
        return self._rows(contender, setup, variant, number, {1: loop}, course.server_cores, resident_mib, cold_start_s)

    def _compare(self, contender: Contender, url: str, wire: Wire) -> None:
        """Hold the answers to those of the stages, one by one and several at once, when batches form."""
        bodies = self._bodies[:COMPARED]
        for at_once in (1, _AT_ONCE):
            answers = _answers(url, self._course.model, bodies, wire, at_once=at_once)
            difference = first_difference(self._expected, answers, self._table)
            if difference:
                raise RuntimeError(f"Expected {contender.name} to give what the stages give, got: {difference}.")

    def _seconds(self, number: int) -> float:
        return self._course.trial_s if number == TRIAL else self._course.seconds

    def _written(self, wire: Wire) -> Path:
        """Write the requests as they travel."""
        path = self._course.scratch / ("bodies.txt" if wire is PLAIN_WIRE else "wrapped.txt")
        if wire is not PLAIN_WIRE:
            path.write_text("".join(f"{wire.wrap(body)}\n" for body in self._bodies))
        return path

    def _rows(
        self,
        contender: Contender,
        setup: Setup,
        variant: str,
        number: int,
        loops: dict[int, ClosedLoop],
        cores: str,
        resident_mib: float,
        cold_start_s: float,
    ) -> list[Row]:
        seconds = self._seconds(number)
        lines, behind = lines_of(setup.written), lines_of(_behind(contender, self._course.cache))
        return [
            Row(
                round=number,
                contender=contender.name,
                variant=variant,
                connections=connections,
                requests_s=max(0.0, loop.requests_s - loop.failed / seconds),
                p50_ms=loop.p50_ms,
                p95_ms=loop.p95_ms,
                p99_ms=loop.p99_ms,
                failed=loop.failed,
                resident_mib=resident_mib,
                cold_start_s=cold_start_s,
                lines=lines,
                lines_behind=behind,
                version=contender.version,
                seconds=seconds,
                server_cores=cores,
                load_cores=self._course.load_cores,
                hardware=self._hardware,
                commit=self._commit,
            )
            for connections, loop in loops.items()
        ]


def _computed(models: Path, model: str, bodies: Sequence[str]) -> list[bytes]:
    """Compute packages here, each by itself."""
    job = Job.of(models, model)
    stages = Stages(models, job)
    asked = [job.read(body.encode()) for body in bodies]
    return [stages.compute([request.sample], [tag])[0] for request, tag in asked]


def _answers(url: str, model: str, bodies: Sequence[str], wire: Wire, *, at_once: int = 1) -> list[bytes]:
    """Ask for packages, some at once; a server that is only just there gets a second and a third chance.

    Raises:
        RuntimeError: If one is not answered well.
    """

    def ask(body: str) -> bytes:
        told = ""
        for _ in range(_ATTEMPTS):
            try:
                answer = client.post(f"/v1/models/{model}/parameters", content=wire.wrap(body))
                if answer.status_code == 200:
                    return wire.unwrap(answer.content)
                told = f"{answer.status_code} {answer.text[:300]}"
            except httpx.TransportError as error:
                told = repr(error)
            time.sleep(_PAUSE_S)
        raise RuntimeError(f"Expected a package, got {told} in {_ATTEMPTS} attempts.")

    headers = {"Content-Type": "application/json"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client, ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(ask, bodies))


def _resident_mib(processes: Sequence[psutil.Process]) -> float:
    """Sum the memory of processes, each shared page counted once."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss / _MIB
    return total


def _behind(contender: Contender, cache: Path) -> list[Path]:
    """Find the packages that a contender stands on, in the environment that it lives in."""
    if contender.is_peer:
        (site,) = (cache / "peers" / "venv").glob("lib/python*/site-packages")
        return [site / name for name in contender.behind]
    found = []
    for name in contender.behind:
        package, *inner = name.split(".")
        room = ROOT / package
        found.append((room if room.is_dir() else folder_of(package)).joinpath(*inner))
    return found
