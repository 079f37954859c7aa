"""A subcommand whose libraries are not installed names the extra that brings them."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from app.commands import COMMANDS, EXTRAS

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys

blocked = sys.argv.pop(1)

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from app.commands import main
main()
"""


def duet_without(library: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, library, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("library", "arguments", "extra"),
    [
        ("torch", ["train"], "train"),
        ("torch", ["evaluate", "RUN"], "train"),
        ("sklearn", ["train", "--data", "digits", "--set", "backbone.name=cnn"], "train"),
        ("ray", ["train", "--workers", "2", "--data", "synthetic:tiny", "--out", "OUT"], "scale-out"),
        ("pandas", ["train", "--workers", "2", "--data", "synthetic:tiny", "--out", "OUT"], "scale-out"),
        ("matplotlib", ["report"], "train"),
        ("onnx", ["publish", "RUN"], "train"),
        ("jinja2", ["demo", "--out", "OUT"], "serve,train"),
        ("ray", ["demo", "--out", "OUT"], "serve,train"),
        ("ray", ["serve"], "serve"),
        ("fastapi", ["serve"], "serve"),
        ("torch", ["serve"], "serve"),
        ("httpx", ["generate", "--model", "tiny", "--sample", "1"], "device"),
        ("onnxruntime", ["device", "--model", "tiny", "--sample", "1"], "device"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_missing_library_is_one_line_that_names_its_extra(
    library: str, arguments: list[str], extra: str, tmp_path: Path
) -> None:
    places = {"OUT": str(tmp_path / "out"), "RUN": str(tmp_path)}

    done = duet_without(library, *(places.get(argument, argument) for argument in arguments))

    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"duet: Expected the library {library}, which `duet {arguments[0]}` needs, got none. Install it with "
        f"pip install '.[{extra}]' in a checkout, or pip install 'duet-serve[{extra}]'.\n"
    )
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_missing_module_of_ours_is_our_mistake_and_keeps_its_traceback() -> None:
    done = duet_without("kernels", "train")

    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_every_command_and_every_extra_that_is_named_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert EXTRAS.keys() == COMMANDS.keys() - {"models"}
    assert {name for extra in EXTRAS.values() for name in extra.split(",")} <= project["optional-dependencies"].keys()
