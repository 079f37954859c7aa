"""What a device would do without a server: fine-tune its classifier on its own sample. Time for an update, no quality.

    states = backbone(sample)                        once: the backbone never changes
    shared parameters of the dynamic layers -> Adam, a few steps, loss of each next item among the whole catalogue

The network is that of the demo with random weights, on which the time does not depend. A core of a server stands for
the device. Prints JSON.

Shapes: T sample length, S width of a state.
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

STEPS = 10
LEARNING_RATE = 1e-2


class FineTuning:
    """One device: its network, and the parameters that each update begins with."""

    def __init__(self, item_count: int) -> None:
        """Build the network.

        Args:
            item_count: Of the catalogue.
        """
        torch.manual_seed(0)
        self._meta = UniversalMetaNetwork(read_config(DEMO_CONFIG).backbone_sizes(item_count)).eval()
        self._meta.requires_grad_(False)
        self._meta.classifier.requires_grad_(True)
        self._shared = {name: value.clone() for name, value in self._meta.classifier.state_dict().items()}

    def update(self, sample: list[int], *, steps: int) -> dict[str, torch.Tensor]:
        """Fine-tune on one sample, from the shared parameters on.

        Args:
            sample: Catalogue indices from 1 on, oldest first; two at least.
            steps: Of the optimiser.

        Returns:
            Weight ``[M, K]`` and bias ``[M]`` of every dynamic layer.
        """
        self._meta.classifier.load_state_dict(self._shared)
        optimiser = torch.optim.Adam(self._meta.classifier.parameters(), lr=LEARNING_RATE)
        items = torch.tensor(sample)
        with torch.no_grad():
            states = self._meta.backbone.encode(items[None, :-1])[0]
        for _ in range(steps):
            optimiser.zero_grad()
            self._meta.catalogue_loss(states, None, items[1:]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return dict(self._meta.classifier.state_dict())


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
    samples, device = [[places[item] for item in sample] for sample in asked], FineTuning(len(ids))
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
