"""Time of an epoch, every position trained: static and generated models with both losses, interleaved on one machine.

    python -m benchmarks training [--data PATH] [--threads 2] [--steps 40] [--csv FILE]

Without ``--data`` a random log of MovieLens-1M's shape is used (6,040 users, 3,706 items, 1,000,209 interactions);
the time of a step does not depend on what the items are. Medians over interleaved steps; an epoch is steps times that.
"""

import csv
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.command_line import parser_of
from duet.data.interactions import Interactions
from duet.data.loading import load
from duet.data.splits import leave_one_out
from duet.data.windows import Windows, training_windows
from duet.evaluation.provenance import provenance
from duet.networks.duet_network import SHARED, Served
from duet.training.config import TrainingConfig
from duet.training.networks import build_network
from duet.training.objectives import objective

VARIANTS = {
    "static, 1:4 negatives": ("static", "binary", SHARED),
    "duet rank 4, 1:4 negatives": ("duet", "binary", Served("factors", 4)),
    "duet full rank, 1:4 negatives": ("duet", "binary", Served("full")),
    "static, full softmax": ("static", "softmax", SHARED),
    "duet rank 4, full softmax": ("duet", "softmax", Served("factors", 4)),
    "duet full rank, full softmax": ("duet", "softmax", Served("full")),
}
WARM_UP = 3


@dataclass
class _Run:
    """One variant in the interleaved measurement."""

    config: TrainingConfig
    served: Served
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    times_s: list[float]


def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, and append to a CSV file if asked to."""
    parser = parser_of("training", __doc__)
    parser.add_argument("--data", help="a log to use instead of the random one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40, help="measured steps of each variant")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    data = load(options.data) if options.data else _movielens_1m_shape()
    windows = training_windows(leave_one_out(data), 30, seed=0, epoch=1)
    runs = {name: _prepare(*variant, data) for name, variant in VARIANTS.items()}
    for step in range(WARM_UP + options.steps):
        for run in runs.values():
            elapsed = _step(run, windows, step, data.item_count)
            if step >= WARM_UP:
                run.times_s.append(elapsed)
    _report(runs, windows, data, options.threads, options.csv)


def _movielens_1m_shape() -> Interactions:
    rng = np.random.default_rng(0)
    users, items, total = 6_040, 3_706, 1_000_209
    lengths = 20 + rng.multinomial(total - 20 * users, rng.dirichlet(np.full(users, 0.7)))
    return Interactions(
        "random log of MovieLens-1M's shape",
        rng.integers(1, items + 1, total).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        tuple(map(str, range(users))),
        tuple(range(items)),
    )


def _prepare(model: str, loss: str, served: Served, data: Interactions) -> _Run:
    config = TrainingConfig.model_validate(
        {"model": model, "generator": {"heads": ["factors", "full"]}, "optimisation": {"loss": loss}}
    )
    torch.manual_seed(0)
    network = build_network(config, data.item_count)
    return _Run(config, served, network, torch.optim.AdamW(network.parameters(), fused=True), [])


def _step(run: _Run, windows: Windows, step: int, item_count: int) -> float:
    size = run.config.optimisation.batch_size
    rows = slice(step * size % (len(windows.inputs) - size), None)
    inputs = torch.from_numpy(windows.inputs[rows][:size]).long()
    targets = torch.from_numpy(windows.targets[rows][:size]).long()
    started = time.perf_counter()
    run.optimizer.zero_grad(set_to_none=True)
    loss = objective(
        run.network,  # type: ignore[arg-type]
        inputs,
        targets,
        run.served,
        run.config.optimisation,
        item_count=item_count,
        generator=torch.Generator().manual_seed(step),
    )
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()
    return time.perf_counter() - started


def _report(runs: dict[str, _Run], windows: Windows, data: Interactions, threads: int, path: Path | None) -> None:
    where = provenance()
    print(f"{data.name}: {windows.positions:,} positions an epoch; {where['hardware']}, {threads} threads")
    print(f"{'variant':32} {'ms/step':>8} {'spread':>14} {'positions/s':>12} {'epoch s':>8}")
    rows = []
    for name, run in runs.items():
        size = run.config.optimisation.batch_size
        median = statistics.median(run.times_s)
        low, _, _, _, high = statistics.quantiles(run.times_s, n=6)
        epoch_s = median * len(windows.inputs) / size
        speed = windows.positions / epoch_s
        print(f"{name:32} {median * 1e3:8.0f} {low * 1e3:6.0f} - {high * 1e3:5.0f} {speed:12,.0f} {epoch_s:8.0f}")
        rows.append([data.name, name, threads, f"{median * 1e3:.1f}", f"{low * 1e3:.1f}", f"{high * 1e3:.1f}",
                     f"{speed:.0f}", f"{epoch_s:.1f}", where["hardware"], where["commit"]])  # fmt: skip
    if path is not None:
        is_new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["data", "variant", "threads", "ms_step_median", "ms_step_low", "ms_step_high",
                                 "positions_s", "epoch_s", "hardware", "commit"])  # fmt: skip
            writer.writerows(rows)
