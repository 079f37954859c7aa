"""Split placement over the nodes of a cluster on this machine, while nodes come and are killed under load.

Two replicas of every stage, on different nodes. Each round adds a node, waits until it is there, and then kills the
oldest one with all that runs on it. A request that is lost with a node is asked once more; its success is the measure.
The generator is paced (``paced.py``), so that requests are under way at any moment.

    python -m benchmarks serving.scale_out --models models --model demo
"""

import argparse
import csv
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from benchmarks.serving.autoscaling import request
from benchmarks.serving.local_cluster import LocalCluster, local_cluster
from benchmarks.serving.open_loop import OpenLoop, count, quantile

_ROOT = Path(__file__).resolve().parents[2]
_REPLICAS = dict.fromkeys(("Gateway", "Encoder", "ParameterGenerator", "Composer"), 2)
_NODES, _CPUS = 2, 2
_START_S = 180.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        nodes_killed: Each after another one was added.
        requests: Sent, retries not counted.
        not_sent: Because the load generator was the limit.
        success: Share of the requests that were answered, one retry included.
        first_try: Share of the requests that needed no retry.
        in_time: Share of the requests that were answered within the budget.
        p50_ms: Median latency of the answers.
        p99_ms: And its 99th percentile.
        slowest_recovery_s: From a node's death until every replica ran again and the server was ready.
    """

    nodes_killed: int
    requests: int
    not_sent: int
    success: float
    first_try: float
    in_time: float
    p50_ms: float
    p99_ms: float
    slowest_recovery_s: float


def main(argv: Sequence[str]) -> None:
    """Run it; see ``--help``."""
    arguments = _parser().parse_args(argv)
    with local_cluster(serve_config(arguments.models, arguments.model), nodes=_NODES, cpus=_CPUS) as cluster:
        cluster.wait_for(_REPLICAS, seconds=_START_S)
        load = OpenLoop(
            f"{cluster.url}/v1/models/{arguments.model}/parameters",
            request(arguments.models, arguments.model, arguments.budget_ms),
            arguments.budget_ms,
            lambda _: arguments.rate,
        )
        recoveries_s = _exchange_nodes(cluster, load, arguments.rounds, arguments.calm_s)
    result = summarize(load, recoveries_s)
    with arguments.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)])
        writer.writeheader()
        writer.writerow(asdict(result))
    for name, value in asdict(result).items():
        print(f"{name:20} {value}")


def serve_config(models: Path, model: str) -> dict[str, Any]:
    """Take ``serve_config.yaml`` with a paced generator and two replicas of each stage, none beside its like."""
    config: dict[str, Any] = yaml.safe_load((_ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    (application,) = config["applications"]
    application["import_path"] = "benchmarks.serving.paced:build_app"
    application["args"] |= {"models": str(models.resolve()), "model": model}
    for deployment in application["deployments"]:
        del deployment["autoscaling_config"]
        deployment |= {"num_replicas": 2, "max_replicas_per_node": 1}
    return config


def summarize(load: OpenLoop, recoveries_s: Sequence[float]) -> Result:
    """Count what became of the requests."""
    outcomes, replies = count(load.replies), load.replies
    latencies = [reply.latency_ms for reply in replies if reply.status in (200, 204)]
    return Result(
        nodes_killed=len(recoveries_s),
        requests=len(replies),
        not_sent=load.dropped,
        success=round(len(latencies) / len(replies), 5),
        first_try=round(sum(not reply.retried for reply in replies) / len(replies), 5),
        in_time=round(outcomes["in-time"] / len(replies), 5),
        p50_ms=round(quantile(latencies, 0.5), 1),
        p99_ms=round(quantile(latencies, 0.99), 1),
        slowest_recovery_s=round(max(recoveries_s), 1),
    )


def _exchange_nodes(cluster: LocalCluster, load: OpenLoop, rounds: int, calm_s: float) -> list[float]:
    """Add and kill nodes under load; list how long each recovery took, in seconds."""
    recoveries_s: list[float] = []
    sending = threading.Thread(target=load.run)
    sending.start()
    try:
        for _ in range(rounds):
            time.sleep(calm_s)
            cluster.add_node(_CPUS)
            killed_s = time.monotonic()
            cluster.kill_node()
            while cluster.running() == _REPLICAS and time.monotonic() - killed_s < _START_S:
                time.sleep(_POLL_S)
            cluster.wait_for(_REPLICAS, seconds=_START_S)
            recoveries_s.append(time.monotonic() - killed_s)
        time.sleep(calm_s)
    finally:
        load.stop()
        sending.join()
    return recoveries_s


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks serving.scale_out", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of published models")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--rounds", type=int, default=5, help="nodes to add and to kill")
    parser.add_argument("--calm-s", type=float, default=20.0, help="between two rounds")
    parser.add_argument("--budget-ms", type=float, default=2000.0, help="of the device, over a link without delay")
    parser.add_argument("--csv", type=Path, default=Path("scale-out.csv"))
    return parser
