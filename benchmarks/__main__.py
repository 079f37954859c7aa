"""``python -m benchmarks NAME``: run one benchmark by name; without a name, say which there are."""

import importlib
import sys

NAMES = {
    "training": "an epoch over a log of MovieLens-1M's shape: static and generated models, both losses",
    "adaptation": "a device's own parameters: fine-tuned, generated in the cloud, generated on the device",
    "evaluation": "ranking the held-out item of every user in the full catalogue, SASRec and GRU4Rec",
    "recbole": "static SASRec and GRU4Rec beside RecBole's, on the same split and ranking",
    "serving.stages": "which share of a request each stage of the server takes",
    "serving.throughput": "either placement in closed loop, beside the same job built otherwise",
    "serving.overload": "open loop below, at and beyond capacity, with the demo's version and a heavy one",
    "serving.generator": "the load generator beside wrk, both in closed loop",
    "serving.planner": "the queue that `duet plan` simulates beside the server that it stands for",
    "serving.autoscaling": "a step to three times the load, with a generator that waits for a recorded cost",
    "serving.scale_out": "a cluster of several nodes on this machine, nodes added and killed under load",
    "serving.replica_deaths": "two replicas of every stage, killed in turn under load",
    "serving.chaos": "rollovers, killed replicas and a removed node, one after the other",
    "serving.soak": "an hour at 70 % of capacity: memory and descriptors of every process of the server",
    "serving.fuzz": "requests from the OpenAPI document, and damaged uploads, against a running server",
    "peers.race": "one package request beside naive Ray Serve, FastAPI, LitServe, BentoML and on-device fine-tuning",
    "kernels": "every operation of kernels/, beside plain PyTorch and torch.compile",
    "telemetry": "what metrics and traces cost a request",
    "serving.rollover": "versions rolled over under open-loop load: failures, mixed versions, late answers",
}


def main() -> None:
    """Dispatch to ``benchmarks.NAME.main``, which reads the remaining arguments itself."""
    name = sys.argv[1] if len(sys.argv) > 1 else "training"
    if name not in NAMES:
        listed = "\n".join(f"  {known:22} {what}" for known, what in NAMES.items())
        sys.exit(f"Expected the name of a benchmark, got {name!r}. There are:\n{listed}")
    module = importlib.import_module(f"benchmarks.{name}")
    module.main(sys.argv[2:])


if __name__ == "__main__":
    main()
