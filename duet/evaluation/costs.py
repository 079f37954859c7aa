"""What parameters of one's own cost, a device: fine-tuning against generating them, in the cloud or on the device.

All ways are measured in turn in one process, on one thread, a device alone and many at once. The time of a generator
does not depend on its values, so fresh ones stand for trained ones; a device fine-tunes as it was chosen to.

    fine-tuned               back-propagation on the device; many at once by torch.func.vmap
    factors-r4, full, …      sample encoder and generator in PyTorch, in one forward pass
    factors-r4 on device     the same two on the device: the encoder on ONNX Runtime, the generator folded

Shapes: U devices, T sample length, D embedding, P flat values.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from duet.data.splits import Split
from duet.data.windows import evaluation_samples, last_positions
from duet.device.runtime import open_session
from duet.evaluation.record import Cost
from duet.networks.duet_network import DuetNetwork, GeneratorSizes, Served
from duet.networks.export import export_encoder
from duet.networks.universal_meta_network import UniversalMetaNetwork
from duet.protocol.signature import SequenceSignature
from duet.training.config import TrainingConfig
from duet.training.fine_tuning import FineTuning, Lessons, Recipe, fine_tune_one, lessons_of
from duet.training.networks import RIVALS

FINE_TUNED = "fine-tuned"
ON_DEVICE = " on device"
BATCH = 32
TURNS = 7
LIMIT_S = 60.0
"""After so long no further turn is begun, once there are two: fine-tuning DIN takes seconds a device."""


@dataclass(frozen=True)
class Way:
    """One way to parameters of one's own.

    Attributes:
        alone: Makes them for the device of a number.
        together: Makes them for the first ``BATCH`` devices at once, if it can.
        device_bytes: What a device keeps for it beside its model.
        counts: Whether the arithmetic is PyTorch's, and can be counted.
    """

    alone: Callable[[int], object]
    together: Callable[[], object] | None
    device_bytes: int = 0
    counts: bool = True


def measure_costs(
    meta: UniversalMetaNetwork, config: TrainingConfig, split: Split, recipe: Recipe, *, turns: int = TURNS
) -> dict[str, Cost]:
    """Measure what fine-tuning costs and what generation for the same device model costs.

    Args:
        meta: The static model that devices fine-tune.
        config: Sizes of backbone and generator, and the loss.
        split: Whose devices.
        recipe: How a device fine-tunes.
        turns: How often each way is measured, alone and together.
    """
    asked = split.evaluated("validation")
    users = asked[np.arange(BATCH) % len(asked)]
    lessons = lessons_of(split, users, "validation", config.backbone.length)
    samples = torch.from_numpy(evaluation_samples(split, users, "validation", config.backbone.length).astype(np.int64))
    ways = {FINE_TUNED: _fine_tuning(meta, config, split.interactions.item_count, lessons, recipe)}
    sizes = config.generator_sizes()
    for model, generates in {"duet": None, **RIVALS}.items():
        heads = GeneratorSizes(**{**vars(sizes), "heads": ("factors", "full")})
        backbone = config.backbone_sizes(split.interactions.item_count)
        network = DuetNetwork(backbone, heads, generates) if generates else DuetNetwork(backbone, heads)
        for served in network.eval().served:
            ways[str(served)] = _generation(network, samples, served)
        if model == "duet":
            ways[f"{network.served[0]}{ON_DEVICE}"] = _on_device(network, samples)
    with _one_thread():
        return _measure(ways, turns)


def _fine_tuning(
    meta: UniversalMetaNetwork, config: TrainingConfig, item_count: int, lessons: Lessons, recipe: Recipe
) -> Way:
    tuning = FineTuning(meta, config.optimisation, item_count)
    return Way(
        lambda device: fine_tune_one(
            meta, lessons.of(slice(device, device + 1)), recipe, config.optimisation, item_count
        ),
        lambda: list(tuning.run(lessons, recipe)),
    )


def _generation(network: DuetNetwork, samples: torch.Tensor, served: Served) -> Way:
    newest = torch.from_numpy(last_positions(samples.numpy().astype(np.int32)))
    columns, head = newest % samples.shape[1], served.head
    folded = None
    if head in ("factors", "full"):
        # decoders are mixed once a version, when it is published, and not once a device
        with torch.no_grad():
            folded = network.generator.fold(head)

    def generate(rows: slice) -> object:
        with torch.inference_mode():
            embeddings = network.embeddings(samples[rows])
            own = embeddings[torch.arange(len(embeddings)), columns[rows]]
            return network.residuals(own, served) if folded is None else torch.addmm(folded[1], own, folded[0].T)

    return Way(lambda device: generate(slice(device, device + 1)), lambda: generate(slice(None)))


def _on_device(network: DuetNetwork, samples: torch.Tensor) -> Way:
    """Encoder on ONNX Runtime and folded generator on the device, which keeps both."""
    signature = SequenceSignature(samples.shape[1], samples.shape[1], "integer")
    session = open_session(export_encoder(network, signature), "encoder")
    with torch.no_grad():
        weight, bias = (tensor.contiguous().numpy() for tensor in network.generator.fold("factors"))
    rows = samples.numpy()

    def generate(device: int) -> object:
        (embedding,) = session.run(None, {"items": rows[device : device + 1]})
        return weight @ embedding[0] + bias

    # item vectors are in the device model already
    kept = sum(parameter.numel() for parameter in network.encoder.parameters())
    return Way(generate, None, device_bytes=4 * kept + weight.nbytes + bias.nbytes, counts=False)


def _measure(ways: Mapping[str, Way], turns: int) -> dict[str, Cost]:
    alone: dict[str, list[float]] = {name: [] for name in ways}
    together: dict[str, list[float]] = {name: [] for name in ways}
    started = time.perf_counter()
    for turn in range(turns + 1):
        if turn > 2 and time.perf_counter() - started > LIMIT_S:
            break
        for name, way in ways.items():
            taken = _seconds(way.alone, turn % BATCH), None if way.together is None else _seconds(way.together)
            if turn:  # the first is warm-up
                alone[name].append(taken[0])
                together[name] += [] if taken[1] is None else [taken[1]]
    return {
        name: Cost(
            one_ms=round(1000 * statistics.median(alone[name]), 4),
            batched_ms=round(1000 * statistics.median(together[name]) / BATCH, 4) if together[name] else None,
            batch=BATCH,
            megaflops=_megaflops(way) if way.counts else None,
            device_bytes=way.device_bytes,
        )
        for name, way in ways.items()
    }


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def _megaflops(way: Way) -> float:
    with FlopCounterMode(display=False) as counter:
        way.alone(0)
    total: int = counter.get_total_flops()
    return round(total / 1e6, 4)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
