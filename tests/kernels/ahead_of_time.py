"""Compile every Triton kernel for sm_80 and sm_90 without an accelerator and print what the machine code uses, as JSON.

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
from kernels.compose_weights import _write_slabs_kernel

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_POINTERS = {
    "slabs_f32_ptr": "*fp32",
    "slabs_f16_ptr": "*fp16",
    "slabs_i8_ptr": "*i8",
    "flags_ptr": "*u8",
    "tiles_ptr": "*i32",
    "devices_ptr": "*i64",
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
_DIRECT = {"HAS_BASE": False, "RANK": 0, "IS_WIDE": False, "IS_ALIGNED": True}
_COMPOSED = {"HAS_BASE": True, "RANK": 4, "IS_WIDE": False, "IS_ALIGNED": True}
_SMALL = {"BLOCK_N": 32, "BLOCK_M": 32, "BLOCK_K": 32, "ACCUMULATOR": triton.language.float32}


def _tile(rows: int, columns: int) -> dict[str, object]:
    return {"BLOCK_ROWS": rows, "BLOCK_COLUMNS": columns}


CASES = {
    "quantize_factors-4x32": (_write_slabs_kernel, _DIRECT | _tile(4, 32), 1),
    "quantize_factors-16x64": (_write_slabs_kernel, _DIRECT | _tile(16, 64), 4),
    "quantize_factors-wide": (_write_slabs_kernel, _DIRECT | _tile(1, 1024) | {"IS_WIDE": True}, 4),
    "compose_weights-32x32": (_write_slabs_kernel, _COMPOSED | _tile(32, 32), 1),
    "compose_weights-64x64": (_write_slabs_kernel, _COMPOSED | _tile(64, 64), 4),
    "compose_weights-32x128": (_write_slabs_kernel, _COMPOSED | _tile(32, 128), 4),
    "compose_weights-rank-8": (_write_slabs_kernel, _COMPOSED | _tile(64, 64) | {"RANK": 8}, 4),
    "compose_weights-rank-16": (_write_slabs_kernel, _COMPOSED | _tile(64, 64) | {"RANK": 16}, 4),
    "compose_weights-ragged": (_write_slabs_kernel, _COMPOSED | _tile(32, 128) | {"IS_ALIGNED": False}, 4),
    "compose_weights-wide": (_write_slabs_kernel, _COMPOSED | _tile(32, 128) | {"IS_WIDE": True}, 8),
    "compose_weights-wide-rank-16": (
        _write_slabs_kernel,
        _COMPOSED | _tile(32, 128) | {"IS_WIDE": True, "RANK": 16},
        8,
    ),
    "apply_low_rank-small": (_apply_low_rank_kernel, _SMALL, 4),
    "apply_low_rank_backward-small": (_apply_low_rank_backward_kernel, _SMALL, 4),
}
"""Kernels by name: the function, its constants, its warps, as the default tuning launches them."""


def compile_for(capability: int, kernel: object, constants: dict[str, object], num_warps: int) -> dict[str, int]:
    """Return registers, stack and shared bytes, and counts of the instructions that matter.

    Counted over the whole program, whose branches for the dtypes exclude each other.
    """
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else _POINTERS.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        for name in names
    }
    # torch allocates at multiples of 16 bytes, and every pitch and stride of an aligned layout is one
    divisible = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name.endswith("_ptr") or (name in _DIVISIBLE and constants.get("IS_ALIGNED", True))
    }
    source = ASTSource(kernel, signature, constexprs=constants, attrs=divisible)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True, "num_warps": num_warps}
    )
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
        "matrix_instructions": len(re.findall(r"\b(?:HGMMA|HMMA|QGMMA)", code)),
        "warp_group_instructions": len(re.findall(r"\bHGMMA", code)),
        "conversions": len(re.findall(r"\bF2I", code)),
        "barriers": len(re.findall(r"\bBAR\.SYNC", code)),
        "instructions": len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!.*\bNOP\b)", code, re.M)),
    }


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([str(_TOOLS / tool), *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    found = {
        f"sm_{capability}": {name: compile_for(capability, *case) for name, case in CASES.items()}
        for capability in (80, 90)
    }
    print(json.dumps(found, indent=1))
