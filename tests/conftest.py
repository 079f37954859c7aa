"""What every test relies on: Triton's interpreter where there is no accelerator, few threads, poisoned memory."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# before any import of ours: a kernel is bound to the interpreter when it is decorated
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# before numpy and torch start their pools: the arrays of the tests are smaller than the cost of waking a second thread
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

pytest_plugins = ["tests.tiny_version", "tests.digits_version", "tests.cloud_version"]

# looked for as a file: importing the package would import torch, which the tests of the device extra do without
HAS_COMPILED = any(Path(__file__).parents[1].glob("kernels/_host_slabs*"))
# what runs a program of others; structure, schemas and syntax are checked without it
PROGRAMS = {"cluster/test_promtool.py": "promtool (Debian: prometheus)", "cluster/test_kustomize.py": "kubectl"}
LEFT_OUT = {file: program for file, program in PROGRAMS.items() if shutil.which(program.split()[0]) is None}
collect_ignore = [*([] if HAS_COMPILED else ["kernels/test_host_generation.py"]), *LEFT_OUT]

GUARD_ELEMENTS = 64
POISON_BYTE = 0x80


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill what ``torch.empty`` returns with NaN, or 0x80, between guard bands that must be intact at the end.

    What is forgotten is then seen in the result, what is read past an end is poison, and what is written past an end
    is found in the bands. A test puts its operands between bands with ``torch.empty(shape).copy_(operand)``.
    """
    import torch

    allocate = torch.empty
    bands: list[Any] = []

    def poisoned_empty(*size: Any, **options: Any) -> Any:
        shape = tuple(size[0]) if size and not isinstance(size[0], int) else size
        count = math.prod(shape)
        flat = allocate(count + 2 * GUARD_ELEMENTS, **options)
        if flat.is_floating_point():
            flat.fill_(math.nan)
        elif flat.dtype != torch.bool:
            flat.view(torch.uint8).fill_(POISON_BYTE)
        for band in (flat[:GUARD_ELEMENTS], flat[GUARD_ELEMENTS + count :]):
            bands.append((band.view(torch.uint8), band.view(torch.uint8).clone()))
        return flat[GUARD_ELEMENTS : GUARD_ELEMENTS + count].view(shape)

    def poisoned_new_empty(tensor: Any, *size: Any, **options: Any) -> Any:
        return poisoned_empty(*size, **{"dtype": tensor.dtype, "device": tensor.device, **options})

    monkeypatch.setattr(torch, "empty", poisoned_empty)
    monkeypatch.setattr(torch, "empty_like", lambda tensor: poisoned_new_empty(tensor, tensor.shape))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned_new_empty)
    yield
    for band, before in bands:
        assert torch.equal(band, before), "memory next to a buffer was written"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long: what comes last keeps one worker busy while the others have nothing left."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def pytest_report_header() -> str:
    """Say what this machine leaves out."""
    return "compiled kernels: " + ("built" if HAS_COMPILED else "not built for want of a C compiler, tests left out")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what was not run, which no worker of pytest-xdist would."""
    for file, program in LEFT_OUT.items():
        terminalreporter.write_line(f"NOT RUN: tests/{file}, for want of {program}")
