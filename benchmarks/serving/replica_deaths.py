"""Replicas of the split placement, two of every stage, killed in turn under load.

    python -m benchmarks serving.replica_deaths [--seconds 300] [--period-s 20] [--csv FILE]

SIGKILL, as the kernel sends it when memory runs out: nothing is told to anybody. Gateways are killed like the stages
behind them. A kill waits for the recovery from the one before, and fewer than one a period fail the run. A request that
is lost is asked once more, as a device would; its success is the measure. The server is the product's own, HAProxy
included; load generator and server share the machine.
"""

import argparse
import math
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from app.server import start
from app.settings import AppSettings
from benchmarks.command_line import parser_of
from benchmarks.serving import versions
from benchmarks.serving.bodies import NO_NETWORK, SMALLEST, bodies, encoded
from benchmarks.serving.faults import Result, loaded, summarize, wait_until
from benchmarks.serving.open_loop import OpenLoop
from benchmarks.serving.record import append
from benchmarks.serving.verdict import conclude

if TYPE_CHECKING:
    from ray.serve import Application

STAGES = ("Gateway", "Encoder", "ParameterGenerator", "Composer")
REPLICAS = 2

_CPUS = 4  # fractions of the deployments, twice; Ray plans with them whether they exist or not
_WARM_UP_S, _RECOVERY_S = 5.0, 120.0


def main(arguments: Sequence[str]) -> None:
    """Measure, print, append to a CSV file if asked to; exit with 1 if the claims do not hold."""
    options = _parser().parse_args(arguments)
    models, model = versions.chosen(options)
    settings = AppSettings(models=str(models), model=model, placement="split")
    with start(settings, port=0, num_cpus=_CPUS, build=_two_of_each) as server:
        wait_until(lambda: _is_whole(server.url), seconds=_RECOVERY_S)
        asked = encoded(bodies(models, model, budget_ms=options.budget_ms, link=NO_NETWORK, accepts=SMALLEST))
        address = f"{server.url}/v1/models/{model}/parameters"
        OpenLoop(address, asked, options.budget_ms, lambda _: options.rate).run(_WARM_UP_S)
        result = _killed(options, OpenLoop(address, asked, options.budget_ms, lambda _: options.rate), server.url)
    if options.csv is not None:
        append(options.csv, result)
    for name, value in asdict(result).items():
        print(f"{name:20} {value}")
    conclude(result.claims(kills=planned_kills(options.seconds, options.period_s)))


def planned_kills(seconds: float, period_s: float) -> int:
    """Count the kills of a run: one at its start, and one after every period that is over before its end."""
    return math.ceil(seconds / period_s)


def _two_of_each(settings: AppSettings) -> "Application":
    # here, when Ray may be imported
    from app.builder import wire
    from deployments.replicas import ParameterGeneratorReplica

    return wire(settings, ParameterGeneratorReplica, replicas=REPLICAS)


def _killed(options: argparse.Namespace, load: OpenLoop, url: str) -> Result:
    draws, recoveries_s, kills = random.Random(options.seed), list[float](), 0
    with loaded(load):
        end_s = time.monotonic() + options.seconds
        for stage in cycle(STAGES):
            started_s = time.monotonic()
            victim = draws.choice(sorted(processes()[stage]))
            os.kill(victim, signal.SIGKILL)
            kills += 1
            is_whole = wait_until(partial(_is_replaced, victim, stage, url), seconds=_RECOVERY_S)
            took_s = time.monotonic() - started_s
            if is_whole:
                recoveries_s.append(took_s)
            told = f"recovered after {took_s:.1f} s" if is_whole else "not recovered"
            print(f"killed a replica of {stage}: {told}; {len(load.replies)} requests so far", flush=True)
            if started_s + options.period_s >= end_s:
                break
            time.sleep(max(0.0, started_s + options.period_s - time.monotonic()))
        time.sleep(max(0.0, end_s - time.monotonic()))
    return summarize(load, "replicas", kills=kills, recoveries_s=recoveries_s)


def processes() -> Mapping[str, set[int]]:
    """List the processes of the replicas that live, by deployment."""
    import ray

    found: dict[str, set[int]] = {stage: set() for stage in STAGES}
    for actor in ray._private.state.actors().values():
        name = next((stage for stage in STAGES if f"#{stage}#" in actor["Name"]), None)
        if name is not None and actor["State"] == "ALIVE":
            found[name].add(actor["Pid"])
    return found


def _is_replaced(victim: int, stage: str, url: str) -> bool:
    """Whether another replica has taken the victim's place; Serve counts it as running until it has noticed."""
    living = processes()[stage]
    return len(living) == REPLICAS and victim not in living and _is_whole(url)


def _is_whole(url: str) -> bool:
    """Whether every deployment has all of its replicas, and a gateway says that every stage answers."""
    from ray import serve

    applications = serve.status().applications.values()
    running = [
        deployment.replica_states.get("RUNNING", 0) == REPLICAS
        for application in applications
        for deployment in application.deployments.values()
    ]
    if len(running) != len(STAGES) or not all(running):
        return False
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.replica_deaths", __doc__)
    versions.add_options(parser)
    parser.add_argument("--seconds", type=float, default=300.0, help="default: 300")
    parser.add_argument("--period-s", type=float, default=20.0, help="between two kills; default: 20")
    parser.add_argument("--rate", type=float, default=30.0, help="requests a second; default: 30")
    parser.add_argument("--budget-ms", type=float, default=2000.0, help="of the device; default: 2000")
    parser.add_argument("--seed", type=int, default=0, help="of the choice between two replicas; default: 0")
    parser.add_argument("--csv", type=Path, help="append the result to this file")
    return parser
