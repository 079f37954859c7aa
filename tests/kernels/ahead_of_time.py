"""Compile every Triton kernel for sm_90 without an accelerator and print what the machine code uses, as JSON.

Run as a script, in a process without TRITON_INTERPRET: under the interpreter Triton's own library is not compilable.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.apply_low_rank import _apply_low_rank_backward_kernel, _apply_low_rank_kernel
from kernels.compose_weights import _compose_weights_kernel
from kernels.quantize_factors import _quantize_factors_kernel

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_POINTERS = {
    "values_ptr": "*fp32",
    "base_ptr": "*fp32",
    "slab_f32_ptr": "*fp32",
    "slab_f16_ptr": "*fp16",
    "slab_i8_ptr": "*i8",
    "finite_ptr": "*u8",
    "tiles_ptr": "*i32",
}
_DIVISIBLE = {
    "values_stride",
    "x_stride",
    "left_stride",
    "left_rank_stride",
    "right_stride",
    "right_rank_stride",
    "M",
    "K",
}
_NARROW = {"GAPS": 2, "BLOCK_ROWS": 32, "BLOCK_COLUMNS": 64, "IS_WIDE": False, "IS_ALIGNED": True}
_RAGGED = {"GAPS": 3, "BLOCK_ROWS": 16, "BLOCK_COLUMNS": 128, "IS_WIDE": False, "IS_ALIGNED": False}
_WIDE = {"GAPS": 1, "BLOCK_ROWS": 2, "BLOCK_COLUMNS": 1024, "IS_WIDE": True, "IS_ALIGNED": True}
_SMALL = {"BLOCK_N": 32, "BLOCK_M": 32, "BLOCK_K": 32, "ACCUMULATOR": triton.language.float32}
CASES = {
    "quantize_factors-narrow": (_quantize_factors_kernel, _NARROW),
    "compose_weights-narrow": (_compose_weights_kernel, _NARROW),
    "compose_weights-ragged": (_compose_weights_kernel, _RAGGED),
    "compose_weights-wide": (_compose_weights_kernel, _WIDE),
    "apply_low_rank-small": (_apply_low_rank_kernel, _SMALL),
    "apply_low_rank_backward-small": (_apply_low_rank_backward_kernel, _SMALL),
}


def compile_for_sm_90(kernel: object, constants: dict[str, object]) -> dict[str, int]:
    """Return registers, stack and shared bytes, and the counts of 128-bit loads and stores."""
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else _POINTERS.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        for name in names
    }
    # torch allocates at multiples of 16 bytes, and every pitch and stride of an aligned layout is one
    divisible = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name.endswith("_ptr") or name == "pitch" or (name in _DIVISIBLE and constants.get("IS_ALIGNED", True))
    }
    source = ASTSource(kernel, signature, constexprs=constants, attrs=divisible)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = _output("cuobjdump", "-res-usage", cubin.name)
        code = _output("nvdisasm", "-c", cubin.name)
    fields = dict(re.findall(r"(REG|STACK|SHARED):(\d+)", usage))
    return {
        "registers": int(fields["REG"]),
        "stack_bytes": int(fields["STACK"]),
        "shared_bytes": int(fields["SHARED"]),
        "wide_loads": len(re.findall(r"LDG\.E\.128", code)),
        "wide_stores": len(re.findall(r"STG\.E\.128", code)),
    }


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([str(_TOOLS / tool), *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    print(json.dumps({name: compile_for_sm_90(*case) for name, case in CASES.items()}, indent=1))
