"""A step to three times the load and back: when the server is inside its budget again, and what leaving replicas cost.

The generator waits for a recorded cost instead of computing (``paced.py``), so that replicas really add capacity on
one machine. Load, replicas and budget slack of every round go to one CSV, those of the round in the middle to a plot.

    python -m benchmarks serving.autoscaling [--rounds 5]

All rounds are on one cluster, each from one replica a stage on. A round takes three and a half minutes.
"""

import argparse
import math
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.command_line import parser_of
from benchmarks.serving import versions
from benchmarks.serving.bodies import NO_NETWORK, SMALLEST, bodies, encoded
from benchmarks.serving.local_cluster import LocalCluster, local_cluster
from benchmarks.serving.open_loop import OpenLoop, Reply, count, quantile
from benchmarks.serving.record import append
from benchmarks.serving.verdict import Claim, at_most, conclude
from duet.evaluation.provenance import provenance

_ROOT = Path(__file__).resolve().parents[2]
_STAGE = "ParameterGenerator"
_POLL_S = 0.25
_START_S = 180.0
_WINDOW_S = 5
_SHARE_IN_TIME = 0.99
_MOST_SECONDS = 30.0


@dataclass(frozen=True)
class Second:
    """What happened in one second; latency and slack are of the requests that were due in it."""

    second: int
    due: int
    in_time: int
    late: int
    refused: int
    failed: int
    retried: int
    p50_ms: float
    p95_ms: float
    slack_p50_ms: float
    slack_p5_ms: float
    replicas: int
    round: int
    hardware: str
    commit: str


@dataclass(frozen=True)
class Phases:
    """When the load changes, in seconds: ``rate`` until ``step_s``, ``factor`` times that until ``drop_s``."""

    rate: float
    factor: float
    step_s: float
    drop_s: float
    end_s: float

    def at(self, now_s: float) -> float:
        """Tell the rate at a time, in requests a second."""
        return self.rate * (self.factor if self.step_s <= now_s < self.drop_s else 1.0)


@dataclass
class Course:
    """Phases, and what was seen meanwhile.

    Attributes:
        phases: As planned, or with the ends that they had.
        is_hasty: Whether the step ends as soon as more replicas run, and the rest as soon as fewer do, each once it is
            inside the budget again.
        replicas: How many ran, and when that was seen.
    """

    phases: Phases
    is_hasty: bool = False
    replicas: list[tuple[float, int]] = field(default_factory=list)

    def at(self, now_s: float) -> float:
        """Tell the rate at a time, in requests a second."""
        return self.phases.at(now_s)

    def has_seen(self, now_s: float, running: int, replies: Sequence[Reply]) -> bool:
        """Take note of how many replicas run; return whether there is nothing left to see."""
        self.replicas.append((now_s, running))
        before, most = self.replicas[0][1], max(number for _, number in self.replicas)
        if not self.is_hasty or now_s >= self.phases.end_s:
            return self.is_hasty
        if not _is_inside(replies, now_s):
            return False
        if self.phases.step_s + _WINDOW_S <= now_s < self.phases.drop_s and running > before:
            self.phases = replace(self.phases, drop_s=now_s, end_s=now_s + self.phases.end_s - self.phases.drop_s)
        is_over = now_s >= self.phases.drop_s + _WINDOW_S and running < most
        if is_over:
            self.phases = replace(self.phases, end_s=now_s)
        return is_over


class Round(NamedTuple):
    """One step and back, and what became of its requests."""

    load: OpenLoop
    seconds: list[Second]
    phases: Phases

    @property
    def inside_s(self) -> float:
        """From the step until it is inside the budget again."""
        return seconds_until_inside(self.seconds, self.phases)


def main(argv: Sequence[str]) -> None:
    """Run it; see ``--help``."""
    arguments = _parser().parse_args(argv)
    models, model = versions.chosen(arguments)
    rounds = []
    with local_cluster(serve_config(arguments, models, model), nodes=1, cpus=16) as cluster:
        for number in range(arguments.rounds):
            rounds.append(_measured(arguments, cluster, models, model, number))
            for second in rounds[-1].seconds:
                append(arguments.csv, second)
            for line in report(*rounds[-1]):
                print(f"round {number + 1}: {line}", flush=True)
    middle = sorted(rounds, key=lambda each: each.inside_s)[(len(rounds) - 1) // 2]
    plot(middle.seconds, middle.phases, arguments.budget_ms, arguments.plot)
    conclude(claims(rounds))


def _measured(arguments: argparse.Namespace, cluster: LocalCluster, models: Path, model: str, number: int) -> Round:
    drop_s = arguments.before_s + arguments.step_s
    phases = Phases(arguments.rate, arguments.factor, arguments.before_s, drop_s, drop_s + arguments.after_s)
    course = Course(phases, is_hasty=arguments.hasty)
    one_each = dict.fromkeys(("Gateway", "Encoder", _STAGE, "Composer"), 1)
    cluster.wait_for(one_each, seconds=_START_S)
    load = OpenLoop(
        f"{cluster.url}/v1/models/{model}/parameters",
        encoded(bodies(models, model, budget_ms=arguments.budget_ms, link=NO_NETWORK, accepts=SMALLEST)),
        arguments.budget_ms,
        course.at,
        seed=number,
    )
    # what has never run is slow once
    OpenLoop(load.url, load.bodies, load.budget_ms, lambda _: arguments.rate).run(arguments.warm_up_s)
    cluster.wait_for(one_each, seconds=_START_S)
    _observe(cluster, load, course)
    seconds = summarize(load.replies, course.replicas, course.phases, arguments.budget_ms, number=number)
    return Round(load, seconds, course.phases)


def serve_config(arguments: argparse.Namespace, models: Path, model: str) -> dict[str, Any]:
    """Take ``serve_config.yaml`` with a paced generator that may have many replicas, and quick to go down."""
    config: dict[str, Any] = yaml.safe_load((_ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    (application,) = config["applications"]
    application["import_path"] = "benchmarks.serving.paced:build_app"
    application["args"] |= {
        "models": str(models.resolve()),
        "model": model,
        "batch_ms": arguments.batch_ms,
        "device_ms": arguments.device_ms,
        "max_batch": arguments.max_batch,
        # the stage sees the wait of what is on its way only: with one batch beside the running one there is hardly any
        "batches_in_flight": arguments.batches_in_flight,
    }
    (stage,) = (deployment for deployment in application["deployments"] if deployment["name"] == _STAGE)
    scaling = stage["autoscaling_config"]
    scaling |= {"max_replicas": arguments.most_replicas, "downscale_delay_s": arguments.downscale_delay_s}
    kwargs = scaling["policy"]["policy_kwargs"] | {"stage_budget_ms": arguments.stage_budget_ms}
    scaling["policy"] = scaling["policy"] | {"policy_kwargs": kwargs}
    return config


def summarize(
    replies: Sequence[Reply], replicas: Sequence[tuple[float, int]], phases: Phases, budget_ms: float, *, number: int
) -> list[Second]:
    """Sort what happened in a round into seconds."""
    known = provenance()
    by_second: list[list[Reply]] = [[] for _ in range(math.ceil(phases.end_s))]
    for reply in replies:
        by_second[min(int(reply.due_s), len(by_second) - 1)].append(reply)
    seconds = []
    for second, due in enumerate(by_second):
        outcomes, latencies = count(due), [reply.latency_ms for reply in due if reply.status in (200, 204)]
        slacks = [budget_ms - latency for latency in latencies]
        running = [number for at_s, number in replicas if at_s <= second + 1]
        seconds.append(
            Second(
                second=second,
                due=len(due),
                in_time=outcomes["in-time"],
                late=outcomes["late"],
                refused=outcomes["refused"],
                failed=outcomes["failed"],
                retried=sum(reply.retried for reply in due),
                p50_ms=round(quantile(latencies, 0.5), 1),
                p95_ms=round(quantile(latencies, 0.95), 1),
                slack_p50_ms=round(quantile(slacks, 0.5), 1),
                slack_p5_ms=round(quantile(slacks, 0.05), 1),
                replicas=running[-1] if running else 0,
                round=number,
                hardware=str(known["hardware"]),
                commit=str(known["commit"]),
            )
        )
    return seconds


def seconds_until_inside(seconds: Sequence[Second], phases: Phases) -> float:
    """Count from the step to the second from which on 99 % of every five seconds are in time; infinite if never."""
    step, drop = math.ceil(phases.step_s), math.floor(phases.drop_s)
    inside = math.inf
    for start in range(drop - _WINDOW_S, step - 1, -1):
        window = seconds[start : start + _WINDOW_S]
        if sum(second.in_time for second in window) < _SHARE_IN_TIME * sum(second.due for second in window):
            break
        inside = start - step
    return inside


def report(load: OpenLoop, seconds: Sequence[Second], phases: Phases) -> list[str]:
    """Say in sentences what was found."""
    after = [reply for reply in load.replies if reply.due_s >= phases.drop_s]
    most = max(second.replicas for second in seconds)
    return [
        f"load: {phases.rate:g} a second, {phases.factor:g} times that from second {phases.step_s:g} to "
        f"{phases.drop_s:g}; {len(load.replies)} requests, {load.dropped} not sent",
        f"outcomes: {dict(count(load.replies))}",
        f"replicas of {_STAGE}: {seconds[0].replicas} before, {most} at most, {seconds[-1].replicas} at the end",
        f"back inside the budget {seconds_until_inside(seconds, phases):g} s after the step",
        f"after the load had gone: {dict(count(after))}, {sum(reply.retried for reply in after)} retried",
    ]


def claims(rounds: Sequence[Round]) -> list[Claim]:
    """Hold what was found against what was to be shown: the median of the rounds; but no round may lose anything."""
    inside_s = statistics.median(each.inside_s for each in rounds)
    replicas = [
        (max(second.replicas for second in each.seconds), each.seconds[-1].replicas, each.load.dropped)
        for each in rounds
    ]
    lost = sum(reply.retried or reply.outcome == "failed" for each in rounds for reply in each.load.replies)
    told = "; ".join(f"{most}, {last}" for most, last, _ in replicas)
    are_fewer = all(last < most for most, last, _ in replicas)
    return [
        at_most("seconds until it is inside the budget again", inside_s, _MOST_SECONDS, ".0f"),
        Claim("replicas at most, and at the end", told, "fewer at the end", are_fewer),
        at_most("requests lost, the first time too", lost, 0, ".0f"),
        at_most("requests that the generator could not send", sum(dropped for *_, dropped in replicas), 0, ".0f"),
    ]


def plot(seconds: Sequence[Second], phases: Phases, budget_ms: float, path: Path) -> None:
    """Draw load, replicas and budget slack over one time axis."""
    import matplotlib

    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    import matplotlib.pyplot as plt

    times = [second.second for second in seconds]
    figure, (load, replicas, slack) = plt.subplots(
        3, 1, sharex=True, figsize=(9, 7), height_ratios=(3, 2, 3), layout="constrained"
    )
    load.step(times, [second.due for second in seconds], where="post", color="0.45", label="due")
    load.step(times, [second.in_time for second in seconds], where="post", color="tab:green", label="answered in time")
    load.step(
        times, [second.due - second.in_time for second in seconds], where="post", color="tab:red", label="late, refused"
    )
    load.set_ylabel("requests a second")
    load.set_ylim(0, 1.25 * max(second.due for second in seconds))
    replicas.step(times, [second.replicas for second in seconds], where="post", color="tab:blue")
    replicas.set_ylabel("generator replicas")
    replicas.set_ylim(0, max(second.replicas for second in seconds) + 0.5)
    replicas.yaxis.get_major_locator().set_params(integer=True)
    slack.plot(times, [second.slack_p50_ms for second in seconds], color="tab:blue", label="median")
    slack.plot(times, [second.slack_p5_ms for second in seconds], color="tab:orange", label="5th percentile")
    slack.axhline(0, color="tab:red", linewidth=1)
    slack.set_ylabel(f"slack of {budget_ms:g} ms, in ms")
    slack.set_xlabel("seconds")
    slack.set_ylim(-budget_ms, budget_ms)
    for axis in (load, slack):
        axis.legend(loc="lower right" if axis is slack else "upper right", frameon=False, ncols=3)
    for axis in (load, replicas, slack):
        axis.axvspan(phases.step_s, phases.drop_s, color="0.93", zorder=0)
        axis.set_xlim(0, phases.end_s)
    figure.suptitle(f"A step to {phases.factor:g} times the load")
    figure.savefig(path)
    plt.close(figure)


def _is_inside(replies: Sequence[Reply], now_s: float) -> bool:
    """Whether 99 % of the last seconds' replies were in time; what is still under way is not counted."""
    lately = [reply.outcome == "in-time" for reply in replies if reply.due_s >= now_s - _WINDOW_S]
    return sum(lately) >= max(1, _SHARE_IN_TIME * len(lately))


def _observe(cluster: LocalCluster, load: OpenLoop, course: Course) -> None:
    """Run the load until the course is over, or has shown everything."""
    is_over = threading.Event()
    started_s = time.monotonic()

    def watch() -> None:
        while not is_over.is_set():
            running = cluster.running().get(_STAGE, 0)
            if course.has_seen(time.monotonic() - started_s, running, tuple(load.replies)):
                load.stop()
                return
            is_over.wait(_POLL_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        load.run(course.phases.end_s)
    finally:
        is_over.set()
        watcher.join()


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.autoscaling", __doc__)
    versions.add_options(parser)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--rate", type=float, default=12.0, help="requests a second before and after")
    parser.add_argument("--factor", type=float, default=3.0, help="of the step")
    parser.add_argument("--warm-up-s", type=float, default=10.0)
    parser.add_argument("--before-s", type=float, default=30.0)
    parser.add_argument("--step-s", type=float, default=60.0)
    parser.add_argument("--after-s", type=float, default=90.0)
    parser.add_argument(
        "--hasty", action="store_true", help="end step and rest as soon as they have shown their effect"
    )
    parser.add_argument("--budget-ms", type=float, default=400.0, help="of the device, over a link without delay")
    parser.add_argument("--stage-budget-ms", type=float, default=250.0, help="of the generator")
    parser.add_argument("--batch-ms", type=float, default=30.0, help="what a batch costs the generator")
    parser.add_argument("--device-ms", type=float, default=15.0, help="what each device in it adds")
    parser.add_argument("--max-batch", type=int, default=2)
    parser.add_argument("--batches-in-flight", type=int, default=5, help="at least, however few replicas there are")
    parser.add_argument("--most-replicas", type=int, default=4)
    parser.add_argument("--downscale-delay-s", type=float, default=10.0)
    parser.add_argument("--csv", type=Path, default=Path("autoscaling.csv"))
    parser.add_argument("--plot", type=Path, default=Path("autoscaling.svg"))
    return parser
