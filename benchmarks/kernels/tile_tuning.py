"""How the grouped launches are cut best on this accelerator: candidates checked, timed in turns, the best written.

Tried are the tile limits and the elements per thread of ``kernels/tuning.json``. A candidate's score is the geometric
mean, over shapes, dtypes and batches, of its time in units of the setting in use.
"""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from torch import Tensor

from app.commands.progress import bar
from benchmarks.kernels.slabs import ACCELERATOR_SHAPES, RANK
from benchmarks.kernels.timing import Pace, time_on_accelerator
from duet.training.checkpoint import write_atomically
from kernels import Plans
from kernels.compose_weights import LaunchTable, launch_slabs
from kernels.slab_layout import TileLimits
from kernels.slabs import Slabs, device_rows
from kernels.tuning import Operation, TileSetting, accelerator_key, tuned

BATCHES = (64, 1024)
FORMS: dict[Operation, str] = {"compose_weights": "composed", "quantize_factors": "factors"}
PACE = Pace(rounds=20, warm_up=3)

_ELEMENTS = (1024, 2048, 4096, 8192)
_ROWS = (16, 32, 64)
_COLUMNS = (64, 128, 256, 1024)
_ELEMENTS_PER_THREAD = (4, 8, 16, 32)


@dataclass(frozen=True)
class _Launch:
    """One launch that candidates compete in."""

    values: Tensor
    base: Tensor
    plans: Plans


def tune(device: torch.device, path: Path, console: Console) -> None:
    """Find the best setting of both operations and write it for this accelerator.

    Args:
        device: A CUDA accelerator.
        path: The tuning file.
        console: Where progress and results are shown.
    """
    best = {operation: _best(operation, device, console) for operation in get_args(Operation)}
    write_entry(path, accelerator_key(device), best)
    console.print(f"{path}: {accelerator_key(device)}", highlight=False, soft_wrap=True)


def write_entry(path: Path, key: str, settings: Mapping[Operation, TileSetting]) -> None:
    """Add or replace the entry of an accelerator; the others stay as they are.

    Args:
        path: The tuning file, replaced in one step.
        key: As :func:`kernels.tuning.accelerator_key` names the accelerator.
        settings: One for each operation.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))
    entries[key] = {
        operation: {
            "largest_tile": [setting.limits.elements, setting.limits.rows, setting.limits.columns],
            "elements_per_thread": setting.elements_per_thread,
        }
        for operation, setting in settings.items()
    }
    # a line an operation, so that a change of one is a change of one line
    blocks = (
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(operation)}: {json.dumps(setting)}" for operation, setting in entry.items())
        + "\n }"
        for name, entry in entries.items()
    )
    write_atomically(path, ("{\n" + ",\n".join(blocks) + "\n}\n").encode())


def candidates() -> Iterator[TileSetting]:
    """Yield every setting to try; tiles that a smaller limit on elements makes equal come once."""
    seen = set()
    for elements, rows, columns, held in product(_ELEMENTS, _ROWS, _COLUMNS, _ELEMENTS_PER_THREAD):
        limits = TileLimits(elements, min(rows, elements // columns), columns)
        if limits.rows and (limits.rows * limits.columns, limits.rows, held) not in seen:
            seen.add((limits.rows * limits.columns, limits.rows, held))
            yield TileSetting(limits, held)


def _best(operation: Operation, device: torch.device, console: Console) -> TileSetting:
    from triton.runtime.errors import OutOfResources

    in_use, launches = tuned(operation, device), list(_launches(operation, device))
    scores: dict[TileSetting, float] = {}
    refused = 0
    tried = [setting for setting in candidates() if setting != in_use]
    with bar(console) as progress:
        task = progress.add_task(operation, total=len(tried))
        for setting in tried:
            try:
                scores[setting] = math.exp(
                    statistics.fmean(math.log(_ratio(launch, setting, in_use)) for launch in launches)
                )
            except OutOfResources:
                # more shared memory or registers than a program may have
                refused += 1
            progress.advance(task)
    best = min(scores, key=scores.__getitem__, default=in_use)
    if scores.get(best, 1.0) >= 1.0:
        best = in_use
    console.print(
        f"{operation}: {best}, {scores.get(best, 1.0):.3f} of the time of the setting in use; "
        f"{len(scores)} tried, {refused} did not fit",
        highlight=False,
    )
    return best


def _launches(operation: Operation, device: torch.device) -> Iterator[_Launch]:
    for shape, dtype, B in product(ACCELERATOR_SHAPES, ("int8", "float16", "float32"), BATCHES):
        layout = shape.layout(f"{FORMS[operation]}-r{RANK}-{dtype}")
        values = torch.randn(B, layout.required_values, device=device)
        yield _Launch(values, torch.randn(max(1, layout.required_base), device=device), Plans([layout]))


def _ratio(launch: _Launch, setting: TileSetting, in_use: TileSetting) -> float:
    """Return the time of a launch under a setting in units of that under the setting in use."""
    calls, written = {}, []
    for name, its in (("tried", setting), ("in use", in_use)):
        chosen: Sequence[int] = [0] * len(launch.values)
        tiles, device = launch.plans.tiles(its.limits), launch.values.device
        rows = torch.tensor(tiles.rows, dtype=torch.int32, device=device)
        table = LaunchTable(tiles, rows, its.num_warps(tiles), launch.plans.required_base > 0)
        slabs = Slabs.allocate(launch.plans, chosen, device, flags=tiles.tiles_of(chosen))
        devices = torch.tensor(device_rows(slabs.starts, chosen, tiles), dtype=torch.int64, device=device)

        def call(table: LaunchTable = table, devices: Tensor = devices, slabs: Slabs = slabs) -> None:
            launch_slabs(launch.values, launch.base, table, devices, slabs.data, slabs.flags)

        call()
        calls[name] = call
        written.append(slabs)
    if not torch.equal(written[0].finite, written[1].finite):
        raise RuntimeError(f"Expected {setting} to find the same slabs finite as {in_use}, got others.")
    # sums may be taken in another order, so bytes are compared only where nothing is summed
    if launch.plans.is_direct and not torch.equal(written[0].data, written[1].data):
        raise RuntimeError(f"Expected {setting} to write the same bytes as {in_use}, got others.")
    times = time_on_accelerator(calls, PACE)
    return statistics.median(one / other for one, other in zip(times["tried"], times["in use"], strict=True))
