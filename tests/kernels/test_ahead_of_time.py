"""What the machine code of the kernels looks like on an accelerator, read without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ahead_of_time.py")
TARGETS = ("sm_80", "sm_90")
REGISTERS = {
    "quantize_factors-4x32": 40,
    "quantize_factors-16x64": 40,
    "quantize_factors-wide": 40,
    "compose_weights-32x32": 96,
    "compose_weights-64x64": 96,
    "compose_weights-32x128": 104,
    "compose_weights-rank-8": 96,
    "compose_weights-rank-16": 104,
    "compose_weights-ragged": 232,
    "compose_weights-wide": 255,
    "compose_weights-wide-rank-16": 176,
    "apply_low_rank-small": 72,
    "apply_low_rank_backward-small": 104,
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    environment["PYTHONPATH"] = str(SCRIPT.parents[2])
    completed = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


def test_every_kernel_is_compiled_for_every_target(compiled):
    assert {target: set(kernels) for target, kernels in compiled.items()} == {key: set(REGISTERS) for key in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", REGISTERS)
def test_no_kernel_spills(compiled, name, target):
    assert compiled[target][name]["stack_bytes"] == 0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", REGISTERS)
def test_registers_leave_room_for_other_programs(compiled, name, target):
    assert compiled[target][name]["registers"] <= REGISTERS[name]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", [name for name in REGISTERS if "ragged" not in name])
def test_aligned_layouts_are_read_and_written_128_bits_at_a_time(compiled, name, target):
    assert compiled[target][name]["wide_loads"] >= 1
    # one store instruction a dtype at least; a tile of 4 x 32 int8 is too small for all of its threads
    stores = 1 if "apply" in name or name == "quantize_factors-4x32" else 3
    assert compiled[target][name]["wide_stores"] >= stores


@pytest.mark.parametrize("name", [name for name in REGISTERS if "weights" in name or "factors" in name])
def test_numbers_are_rounded_without_conversion_instructions(compiled, name):
    assert compiled["sm_90"][name]["conversions"] == 0


@pytest.mark.parametrize(
    ("name", "count"),
    [("compose_weights-rank-8", 3), ("compose_weights-rank-16", 6), ("compose_weights-64x64", 0)],
)
def test_large_ranks_take_one_matrix_instruction_a_part_of_the_mantissa_and_eight_ranks(compiled, name, count):
    assert compiled["sm_90"][name]["warp_group_instructions"] == count


def test_an_element_of_an_aligned_tile_takes_few_instructions(compiled):
    # of all three dtypes together, though a program runs one of them; 4,096 elements, 128 threads
    assert compiled["sm_90"]["compose_weights-64x64"]["instructions"] / 32 <= 42
