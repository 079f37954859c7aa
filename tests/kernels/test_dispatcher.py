"""Which backend runs, what it takes to refuse one, and that everything imports without Triton."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import dispatcher
from kernels.dispatcher import resolve_backend
from tests.kernels.ragged_layouts import ACCELERATOR

TENSOR = torch.zeros(1)
WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
import kernels
values = torch.ones(2, 3)
plans = kernels.Plans([kernels.SlabLayout((kernels.Segment(1, 3, 0, "float16", source=0),), 6)])
slabs = kernels.quantize_factors(values, plans, [0] * len(values))
assert slabs.starts == [0, 16, 32] and slabs.finite.all()
try:
    kernels.quantize_factors(values, plans, [0] * len(values), backend="triton")
except RuntimeError as error:
    assert "Triton is not installed" in str(error), error
else:
    raise SystemExit("the triton backend was not refused")
"""


@pytest.fixture(autouse=True)
def _fresh_decisions(monkeypatch):
    monkeypatch.delenv("DUET_KERNELS", raising=False)
    dispatcher._resolve.cache_clear()
    yield
    dispatcher._resolve.cache_clear()


def test_tensors_off_the_accelerator_run_the_reference():
    assert resolve_backend("auto", TENSOR) == "reference"


def test_tensors_on_the_accelerator_run_triton():
    assert dispatcher._resolve("auto", "auto", "cuda", False) == "triton"


def test_what_has_a_compiled_form_runs_it_on_a_host(monkeypatch):
    monkeypatch.setattr(dispatcher, "is_built", lambda: True)

    assert resolve_backend("auto", TENSOR, has_compiled=True) == "compiled"


def test_a_host_without_the_compiled_kernels_runs_the_reference_and_says_how_to_get_them(monkeypatch, caplog):
    monkeypatch.setattr(dispatcher, "is_built", lambda: False)

    with caplog.at_level(logging.INFO, logger="kernels.dispatcher"):
        chosen = resolve_backend("auto", TENSOR, has_compiled=True)

    assert chosen == "reference"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no C compiler was found" in caplog.text
    with pytest.raises(RuntimeError, match="no C compiler was found"):
        resolve_backend("compiled", TENSOR, has_compiled=True)


def test_the_compiled_backend_is_refused_on_an_accelerator():
    with pytest.raises(RuntimeError, match="the tensors are on cuda"):
        dispatcher._resolve("compiled", "auto", "cuda", True)


def test_the_environment_replaces_the_rule(monkeypatch):
    monkeypatch.setenv("DUET_KERNELS", "triton")

    assert resolve_backend("auto", TENSOR.to(ACCELERATOR)) == "triton"


def test_the_argument_is_above_the_environment(monkeypatch):
    monkeypatch.setenv("DUET_KERNELS", "triton")

    assert resolve_backend("reference", TENSOR) == "reference"


def test_an_unknown_backend_is_refused_with_the_known_ones(monkeypatch):
    with pytest.raises(ValueError, match="auto, reference, compiled, triton, got 'cuda'"):
        resolve_backend("cuda", TENSOR)

    monkeypatch.setenv("DUET_KERNELS", "fast")
    with pytest.raises(ValueError, match="DUET_KERNELS to be one of auto, reference, compiled, triton, got 'fast'"):
        resolve_backend("auto", TENSOR)


def test_triton_on_cpu_tensors_is_refused_outside_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    with pytest.raises(RuntimeError, match="the tensors are on cpu"):
        resolve_backend("triton", TENSOR)


def test_an_accelerator_without_triton_runs_the_reference_and_warns(monkeypatch, caplog):
    monkeypatch.setattr(dispatcher, "triton", None)

    with caplog.at_level(logging.INFO, logger="kernels.dispatcher"):
        chosen = dispatcher._resolve("auto", "auto", "cuda", False)

    assert chosen == "reference"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_decision_is_logged_once(caplog):
    with caplog.at_level(logging.INFO, logger="kernels.dispatcher"):
        for _ in range(3):
            resolve_backend("auto", TENSOR)

    assert [record.getMessage() for record in caplog.records] == [
        "kernels run on the reference backend for cpu tensors: the tensors are not on a CUDA accelerator, "
        "and PyTorch's own library computes this"
    ]


def test_without_triton_everything_imports_and_the_triton_backend_is_refused():
    root = Path(__file__).resolve().parents[2]

    completed = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], cwd=root, capture_output=True, text=True)

    assert completed.returncode == 0, completed.stderr
