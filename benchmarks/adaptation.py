"""Time of a device's own parameters: fine-tuned as a run chose to, generated in the cloud, generated on the device.

    python -m benchmarks adaptation RUN --data PATH [--turns 25] [--csv FILE]

RUN is the folder of a ``fine-tuned`` run that was evaluated (``duet evaluate``). All ways are measured in turn in one
process on one thread, alone and many devices at once; ratios to fine-tuning are of the same run.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command_line import parser_of
from duet.data.loading import load
from duet.evaluation.costs import FINE_TUNED, measure_costs
from duet.evaluation.fine_tuned import choose_recipe, recipe_of
from duet.evaluation.provenance import provenance
from duet.evaluation.record import Cost
from duet.networks.duet_network import StaticNetwork
from duet.protocol.errors import UnusableRun
from duet.training import checkpoint
from duet.training.fine_tuning import Recipe
from duet.training.networks import build_network
from duet.training.tasks import split_of

HEAD = ("backbone", "recipe", "way", "one_ms", "times_cheaper", "batched_ms", "batched_times_cheaper", "batch",
        "megaflops", "device_bytes", "hardware", "commit")  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, and append to a CSV file if asked to."""
    parser = parser_of("adaptation", __doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True, help="the log that the run was trained on")
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    config, data = checkpoint.read_run_config(options.run), load(options.data)
    if config.model != "fine-tuned":
        raise UnusableRun(path=options.run, reason=f"it is {config.model}", remedy="Name a run of `model: fine-tuned`.")
    checkpoint.check_data(options.run, data)
    network = build_network(config, data.item_count).eval()
    assert isinstance(network, StaticNetwork)
    checkpoint.load_best(options.run, network)
    split = split_of(config, data)
    recipe = recipe_of(choose_recipe(options.run, network.meta, config, split).chosen)
    costs = measure_costs(network.meta, config, split, recipe, turns=options.turns)
    rows = list(_rows(config.backbone.name, recipe, costs))
    for row in (HEAD, *rows):
        print("".join(f"{cell:>22}" for cell in row[2:10]))
    if options.csv is not None:
        _append(options.csv, rows)


def _rows(backbone: str, recipe: Recipe, costs: dict[str, Cost]) -> list[list[str]]:
    where, slow = provenance(), costs[FINE_TUNED]
    return [
        [
            backbone,
            str(recipe),
            name,
            f"{cost.one_ms:.4f}",
            f"{slow.one_ms / cost.one_ms:.1f}",
            "" if cost.batched_ms is None else f"{cost.batched_ms:.4f}",
            "" if cost.batched_ms is None or slow.batched_ms is None else f"{slow.batched_ms / cost.batched_ms:.1f}",
            str(cost.batch),
            "" if cost.megaflops is None else f"{cost.megaflops:.3f}",
            str(cost.device_bytes),
            str(where["hardware"]),
            str(where["commit"]),
        ]
        for name, cost in costs.items()
    ]


def _append(path: Path, rows: list[list[str]]) -> None:
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(HEAD)
        writer.writerows(rows)
