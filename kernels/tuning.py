"""How the grouped launches are cut on an accelerator: ``tuning.json``, keyed by Triton version and accelerator.

Nothing is tuned while serving. ``python -m benchmarks kernels --tune`` measures on an accelerator and writes entries;
where there is none for what runs here, the ``default`` one is used, which stands on the machine code alone (registers,
instructions per element; tests/kernels/test_ahead_of_time.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from kernels.slab_layout import TileLimits, TileTable

TUNING_FILE = Path(__file__).with_name("tuning.json")

Operation: TypeAlias = Literal["compose_weights", "quantize_factors"]


@dataclass(frozen=True)
class TileSetting:
    """How one operation is cut.

    Attributes:
        limits: The largest tile.
        elements_per_thread: How many elements of a tile a thread holds, which decides the warps of a program.
    """

    limits: TileLimits
    elements_per_thread: int

    def num_warps(self, table: TileTable) -> int:
        """Return the warps of a program for the tiles of a table, 1 to 8."""
        # a walk over long rows holds the factors of both of its passes, so a thread has room for half as much
        held = self.elements_per_thread // 2 if table.is_wide else self.elements_per_thread
        return min(max(table.block_rows * table.block_columns // (32 * held), 1), 8)


def tuned(operation: Operation, device: torch.device) -> TileSetting:
    """Return the setting of an operation for a device."""
    return _tuned(operation, accelerator_key(device))


def accelerator_key(device: torch.device) -> str:
    """Name what an entry is measured on: Triton's version without its last part, and the accelerator."""
    if device.type != "cuda":
        return "default"
    from triton import __version__ as version

    return f"triton {'.'.join(version.split('.')[:2])}, {torch.cuda.get_device_name(device)}"


@cache
def _tuned(operation: Operation, key: str) -> TileSetting:
    settings = json.loads(TUNING_FILE.read_text(encoding="utf-8"))
    found = settings.get(key, settings["default"])[operation]
    return TileSetting(TileLimits(*found["largest_tile"]), found["elements_per_thread"])
