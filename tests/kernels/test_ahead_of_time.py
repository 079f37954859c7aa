"""What the machine code of the kernels looks like on an accelerator, read without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ahead_of_time.py")
REGISTERS = {
    "quantize_factors-narrow": 96,
    "compose_weights-narrow": 112,
    "compose_weights-ragged": 136,
    "compose_weights-wide": 112,
    "apply_low_rank-small": 72,
    "apply_low_rank_backward-small": 96,
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    environment["PYTHONPATH"] = str(SCRIPT.parents[2])
    completed = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


def test_every_kernel_is_compiled(compiled):
    assert compiled.keys() == REGISTERS.keys()


@pytest.mark.parametrize("name", REGISTERS)
def test_no_kernel_spills(compiled, name):
    assert compiled[name]["stack_bytes"] == 0


@pytest.mark.parametrize("name", REGISTERS)
def test_registers_leave_room_for_other_programs(compiled, name):
    assert compiled[name]["registers"] <= REGISTERS[name]


@pytest.mark.parametrize("name", [name for name in REGISTERS if "ragged" not in name])
def test_aligned_layouts_are_read_and_written_128_bits_at_a_time(compiled, name):
    assert compiled[name]["wide_loads"] >= 1
    assert compiled[name]["wide_stores"] >= 1
