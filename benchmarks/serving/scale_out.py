"""Split placement over the nodes of a cluster on this machine, while nodes come and are killed under load.

Two replicas of every stage, on different nodes. Each round adds a node, waits until it is there, and then kills the
oldest one with all that runs on it. A request that is lost with a node is asked once more; its success is the measure.
The generator is paced (``paced.py``), so that requests are under way at any moment.

    python -m benchmarks serving.scale_out
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.command_line import parser_of
from benchmarks.serving import versions
from benchmarks.serving.bodies import NO_NETWORK, SMALLEST, bodies, encoded
from benchmarks.serving.faults import loaded, summarize, wait_until
from benchmarks.serving.local_cluster import LocalCluster, local_cluster
from benchmarks.serving.open_loop import OpenLoop
from benchmarks.serving.record import append
from benchmarks.serving.verdict import conclude

_ROOT = Path(__file__).resolve().parents[2]
_REPLICAS = dict.fromkeys(("Gateway", "Encoder", "ParameterGenerator", "Composer"), 2)
_NODES, _CPUS = 2, 2
_START_S = 180.0


def main(argv: Sequence[str]) -> None:
    """Run it; see ``--help``."""
    arguments = _parser().parse_args(argv)
    models, model = versions.chosen(arguments)
    with local_cluster(serve_config(models, model), nodes=_NODES, cpus=_CPUS) as cluster:
        cluster.wait_for(_REPLICAS, seconds=_START_S)
        load = OpenLoop(
            f"{cluster.url}/v1/models/{model}/parameters",
            encoded(bodies(models, model, budget_ms=arguments.budget_ms, link=NO_NETWORK, accepts=SMALLEST)),
            arguments.budget_ms,
            lambda _: arguments.rate,
        )
        kills, recoveries_s = _exchange_nodes(cluster, load, arguments.rounds, arguments.calm_s)
    result = summarize(load, "nodes", kills=kills, recoveries_s=recoveries_s)
    append(arguments.csv, result)
    for name, value in asdict(result).items():
        print(f"{name:20} {value}")
    conclude(result.claims(kills=arguments.rounds))


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


def _exchange_nodes(cluster: LocalCluster, load: OpenLoop, rounds: int, calm_s: float) -> tuple[int, list[float]]:
    """Add and kill nodes under load; count those whose replicas went with them, and list the recoveries, in seconds."""
    kills, recoveries_s = 0, list[float]()
    with loaded(load):
        for _ in range(rounds):
            time.sleep(calm_s)
            cluster.add_node(_CPUS)
            killed_s = time.monotonic()
            cluster.kill_node()
            if not wait_until(lambda: cluster.running() != _REPLICAS, seconds=_START_S):
                continue  # nothing was lost with it, so there is nothing to recover from
            kills += 1
            with suppress(TimeoutError):  # what has not recovered is not in the list
                cluster.wait_for(_REPLICAS, seconds=_START_S)
                recoveries_s.append(time.monotonic() - killed_s)
        time.sleep(calm_s)
    return kills, recoveries_s


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serving.scale_out", __doc__)
    versions.add_options(parser)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--rounds", type=int, default=5, help="nodes to add and to kill")
    parser.add_argument("--calm-s", type=float, default=20.0, help="between two rounds")
    parser.add_argument("--budget-ms", type=float, default=2000.0, help="of the device, over a link without delay")
    parser.add_argument("--csv", type=Path, default=Path("scale-out.csv"))
    return parser
