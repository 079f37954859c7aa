"""A long run at a share of capacity: how memory and descriptors of every process of the server develop.

    python -m benchmarks serving.soak [--minutes 60] [--percent 70] [--csv FILE] [--plot FILE]

The server is the colocated one on a core of its own, the load an open loop on another. After a sixth of the time, in
which caches fill, the rest is cut into ten blocks; the slope is that of a line through their means, with the interval
of Student's t, because neighbouring readings depend on each other and means of blocks hardly do.
"""

import argparse
import math
import os
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.command_line import parser_of
from benchmarks.serving import versions
from benchmarks.serving.bodies import NO_NETWORK, bodies, encoded
from benchmarks.serving.closed_loop import load as closed_loop
from benchmarks.serving.closed_loop import write_bodies
from benchmarks.serving.faults import loaded
from benchmarks.serving.open_loop import OpenLoop, Reply
from benchmarks.serving.pinned import confined, ours, pinned
from benchmarks.serving.record import append
from benchmarks.serving.verdict import Claim, at_least, at_most, conclude
from duet.evaluation.provenance import provenance

BLOCKS = 10
T_QUANTILE = 2.306
"""Of Student's t with eight degrees of freedom, 97.5 %."""

MOST_GROWTH = 0.02
"""Growth of resident memory over the measured time, as a part of it, that still counts as flat."""

MORE_DESCRIPTORS = 8
LEAST_IN_TIME = 0.99
"""Of accepted requests: over an hour a shared core is slower than its capacity was, and then some are refused."""

ALL = "all"

_CONNECTIONS, _AMPLE_MS = 64, 10_000
_MIB = 2**20


@dataclass(frozen=True)
class Reading:
    """One process, or several of one name together, at one time.

    Attributes:
        at_s: From the start of the load.
        requests: Answered by then.
        process: Its name; ``all`` for the sum.
        count: How many processes of that name there are.
        resident_mib: Resident memory.
        descriptors: That are open.
    """

    at_s: float
    requests: int
    process: str
    count: int
    resident_mib: float
    descriptors: int
    hardware: str
    commit: str


@dataclass(frozen=True)
class Trend:
    """A line through the means of blocks: slope in units an hour, and half the width of its 95 % interval."""

    mean: float
    slope: float
    margin: float
    first: float
    last: float

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> "Trend":
        """Fit it.

        Args:
            points: Time in seconds and value, in order of time; those of the first sixth are left out.
        """
        start_s, end_s = points[0][0], points[-1][0]
        from_s = start_s + (end_s - start_s) / 6
        width_s = (end_s - from_s) / BLOCKS or 1.0
        blocks: list[list[tuple[float, float]]] = [[] for _ in range(BLOCKS)]
        for at_s, value in points:
            if at_s >= from_s:
                blocks[min(BLOCKS - 1, int((at_s - from_s) / width_s))].append((at_s / 3600, value))
        filled = [block for block in blocks if block]
        hours = [statistics.fmean(at for at, _ in block) for block in filled]
        values = [statistics.fmean(value for _, value in block) for block in filled]
        if len(filled) < BLOCKS:
            return cls(statistics.fmean(values), math.nan, math.nan, values[0], values[-1])
        line = statistics.linear_regression(hours, values)
        off = [value - line.intercept - line.slope * at for at, value in zip(hours, values, strict=True)]
        spread = sum((at - statistics.fmean(hours)) ** 2 for at in hours)
        error = math.sqrt(sum(each**2 for each in off) / (BLOCKS - 2) / spread)
        return cls(statistics.fmean(values), line.slope, T_QUANTILE * error, values[0], values[-1])


def main(arguments: Sequence[str]) -> None:
    """Measure, print, append to a CSV file and draw if asked to; exit with 1 if the claims do not hold."""
    options = _parser().parse_args(arguments)
    models, model = versions.chosen(options)
    with pinned(ours(models, model), cores=options.server_cores) as url:
        rate = options.rate or _capacity(options, url, models, model) * options.percent / 100
        print(f"{rate:,.0f} requests/s", flush=True)
        asked = encoded(bodies(models, model, budget_ms=options.budget_ms, link=NO_NETWORK))
        load = OpenLoop(f"{url}/v1/models/{model}/parameters", asked, options.budget_ms, lambda _: rate)
        readings, outcomes, refused_to_send = _watched(options, load)
    if options.csv is not None:
        for reading in readings:
            append(options.csv, reading)
    if options.plot is not None:
        plot(readings, options.plot)
    print(f"outcomes: {dict(outcomes)}, {refused_to_send} not sent")
    conclude(claims(readings, outcomes))


def claims(readings: Sequence[Reading], outcomes: Mapping[str, int]) -> list[Claim]:
    """Hold what was found against what was to be shown; print the line of every process."""
    found: list[Claim] = []
    for process in sorted({reading.process for reading in readings}, key=lambda name: (name == ALL, name)):
        those = [reading for reading in readings if reading.process == process]
        memory = Trend.of([(reading.at_s, reading.resident_mib) for reading in those])
        descriptors = Trend.of([(reading.at_s, float(reading.descriptors)) for reading in those])
        requests = those[-1].requests - those[0].requests
        hours = (those[-1].at_s - those[0].at_s) / 3600
        a_request = memory.slope * hours * _MIB / requests if requests else math.nan
        print(
            f"{process}: {memory.mean:.1f} MiB, slope {memory.slope:+.2f} ± {memory.margin:.2f} MiB an hour "
            f"({a_request:+.1f} bytes a request); descriptors {descriptors.first:.0f} to {descriptors.last:.0f}"
        )
        if process != ALL:
            continue
        measured_hours = hours * 5 / 6
        growth = (memory.slope + memory.margin) * measured_hours / memory.mean
        what = "growth of resident memory at most, of all of it"
        found.append(at_most(what, growth, MOST_GROWTH, ".4f"))
        found.append(at_most("more descriptors at the end", descriptors.last - descriptors.first, MORE_DESCRIPTORS))
    in_time, late = (outcomes.get(outcome, 0) for outcome in ("in-time", "late"))
    found.append(at_least("in time of accepted", in_time / (in_time + late) if in_time else 0.0, LEAST_IN_TIME))
    found.append(at_most("failed requests", outcomes.get("failed", 0), 0, ".0f"))
    return found


def _capacity(options: argparse.Namespace, url: str, models: Path, model: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bodies.txt"
        write_bodies(path, models, model, budget_ms=_AMPLE_MS)
        run = {"bodies": path, "connections": _CONNECTIONS, "cores": options.load_cores}
        closed_loop(url, model, seconds=options.capacity_s / 2, **run)
        return closed_loop(url, model, seconds=options.capacity_s, **run).requests_s


def _watched(options: argparse.Namespace, load: OpenLoop) -> tuple[list[Reading], Counter[str], int]:
    """Send requests for the whole time; read what every process holds again and again."""
    readings: list[Reading] = []
    outcomes: Counter[str] = Counter()
    known = provenance()
    told = {"hardware": str(known["hardware"]), "commit": str(known["commit"])}
    pause, started_s = threading.Event(), time.monotonic()
    replies: list[Reply] = []
    with confined(options.load_cores), loaded(load):
        while (at_s := time.monotonic() - started_s) < options.minutes * 60:
            # an hour of replies is a gigabyte; those of the last period may still be written to
            outcomes.update(reply.outcome for reply in replies)
            replies, load.replies = load.replies, []
            held = held_by(psutil.Process().children(recursive=True))
            for process, (count, resident_mib, descriptors) in held.items():
                requests = outcomes.total() + len(replies)
                readings.append(Reading(at_s, requests, process, count, resident_mib, descriptors, **told))
            pause.wait(min(options.every_s, max(0.0, options.minutes * 60 - at_s)))
    outcomes.update(reply.outcome for reply in (*replies, *load.replies))
    return readings, outcomes, load.dropped


def held_by(processes: Sequence[psutil.Process]) -> dict[str, tuple[int, float, int]]:
    """Sum up processes, resident MiB and descriptors by name, and all together."""
    held: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0])
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # HAProxy replaces its own
            name, resident, descriptors = _name(process), process.memory_info().rss / _MIB, process.num_fds()
            for key in (name, ALL):
                held[key] = [one + more for one, more in zip(held[key], (1, resident, descriptors), strict=True)]
    return {name: (int(count), resident, int(descriptors)) for name, (count, resident, descriptors) in held.items()}


def _name(process: psutil.Process) -> str:
    """Name a process so that it is the same in every run: what Ray calls its actor, else the script or program."""
    line: list[str] = process.cmdline()
    if line and line[0].startswith("ray::"):
        return line[0].split()[0].partition(".")[0]  # without the method that it is in
    scripts = [os.path.basename(word) for word in line[1:] if word.endswith(".py")]
    name: str = process.name()
    return scripts[0] if scripts and "python" in name else name


def plot(readings: Sequence[Reading], path: Path) -> None:
    """Draw resident memory and descriptors of every process over the time."""
    import matplotlib

    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(9, 7), layout="constrained")
    for process in sorted({reading.process for reading in readings} - {ALL}):
        those = [reading for reading in readings if reading.process == process]
        minutes = [reading.at_s / 60 for reading in those]
        axes[0].plot(minutes, [reading.resident_mib for reading in those], label=process)
        axes[1].plot(minutes, [reading.descriptors for reading in those])
    axes[0].set_ylabel("resident MiB")
    axes[1].set_ylabel("open descriptors")
    axes[1].set_xlabel("minutes")
    axes[0].legend(fontsize="x-small", ncols=2)
    for axis in axes:
        axis.set_ylim(bottom=0)
    figure.savefig(path)
    plt.close(figure)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.soak", __doc__)
    versions.add_options(parser)
    parser.add_argument("--minutes", type=float, default=60.0, help="default: 60")
    parser.add_argument("--percent", type=float, default=70.0, help="of the measured capacity; default: 70")
    parser.add_argument("--rate", type=float, help="requests a second, instead of a share of the capacity")
    parser.add_argument("--every-s", type=float, default=5.0, help="between two readings; default: 5")
    parser.add_argument("--capacity-s", type=float, default=10.0, help="of closed loop beforehand; default: 10")
    parser.add_argument("--budget-ms", type=float, default=50.0, help="the server's share; default: 50")
    parser.add_argument("--server-cores", default="0", help="as taskset -c reads them; default: 0")
    parser.add_argument("--load-cores", default="1", help="default: 1")
    parser.add_argument("--csv", type=Path, help="append the readings to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this file")
    return parser
