"""What a device would do without a server: fine-tune its classifier on its own sample. Time for an update, no quality.

What is timed is the baseline of ``duet evaluate`` (:func:`duet.training.fine_tuning.fine_tune_one`): states made once,
then a few steps of Adam on the classifier, from the shared parameters on. The network is that of the demo with random
weights, on which the time does not depend. A core of a server stands for the device. Prints JSON.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import psutil
import torch

from benchmarks.serving.bodies import bodies
from benchmarks.serving.versions import DEMO_CONFIG
from duet.networks.universal_meta_network import UniversalMetaNetwork
from duet.registry import Registry
from duet.training.config import read_config
from duet.training.fine_tuning import Lessons, Recipe, fine_tune_one

STEPS = 10
LEARNING_RATE = 1e-2


class Device:
    """One device of the demo's network."""

    def __init__(self, item_count: int) -> None:
        """Build the network.

        Args:
            item_count: Of the catalogue.
        """
        torch.manual_seed(0)
        config = read_config(DEMO_CONFIG)
        self.meta = UniversalMetaNetwork(config.backbone_sizes(item_count)).eval()
        self._options, self._item_count = config.optimisation, item_count

    def update(self, sample: list[int], *, steps: int) -> UniversalMetaNetwork:
        """Fine-tune on one sample, from the shared parameters on.

        Args:
            sample: Catalogue indices from 1 on, oldest first; two at least.
            steps: Of the optimiser.

        Returns:
            The device's own network.
        """
        items = torch.tensor([sample])
        lessons = Lessons(items[:, :-1].contiguous(), items[:, 1:].contiguous())
        recipe = Recipe("classifier", LEARNING_RATE, steps)
        return fine_tune_one(self.meta, lessons, recipe, self._options, self._item_count)


def main() -> None:
    """Update for some seconds and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.fine_tuning", description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the optimiser in an update; default: {STEPS}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    registry = Registry(options.models)
    ids = list(registry.open(options.model, registry.active(options.model)).vocabulary().ids)
    places = {item: place + 1 for place, item in enumerate(ids)}
    asked = [json.loads(body)["sample"] for body in bodies(options.models, options.model, budget_ms=1)]
    samples, device = [[places[item] for item in sample] for sample in asked], Device(len(ids))
    device.update(samples[0], steps=options.steps)
    ready_s, times_ms = time.time(), list[float]()
    deadline_s = time.monotonic() + options.seconds
    while time.monotonic() < deadline_s:
        started_s = time.perf_counter()
        device.update(samples[len(times_ms) % len(samples)], steps=options.steps)
        times_ms.append(1000 * (time.perf_counter() - started_s))
    cuts = statistics.quantiles(times_ms, n=100)
    told = {"updates_s": 1000 / statistics.fmean(times_ms), "p50_ms": cuts[49], "p95_ms": cuts[94], "p99_ms": cuts[98]}
    resident_mib = psutil.Process().memory_full_info().pss / 2**20
    print(json.dumps(told | {"ready_s": ready_s, "resident_mib": resident_mib}))


if __name__ == "__main__":
    main()
