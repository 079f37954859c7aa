"""The environment of the peers: made once, from pinned versions, with the libraries of the stages from this one."""

import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from duet.training.checkpoint import write_atomically

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
ROOT = Path(__file__).resolve().parents[2]
"""The checkout, whose packages the peers import."""

PEERS = ("litserve", "bentoml")

_STAMP = "made-of.json"
_LINK = "stages.pth"
_PROBE = """
import importlib.metadata, json, bentoml, litserve, torch, app.schemas, deployments.encoder
print(json.dumps([app.schemas.__file__, *(importlib.metadata.version(name) for name in ("litserve", "bentoml"))]))
"""


def peers_environment(cache: Path, tell: Callable[[str], None]) -> None:
    """Make the environment of the peers, unless it is there and what is asked for.

    Args:
        cache: Where benchmarks keep things.
        tell: Is told what takes long.

    Raises:
        RuntimeError: If it cannot be made, or imports other packages of ours than this checkout's.
    """
    interpreter = peers_interpreter(cache)
    folder = interpreter.parents[1]
    stamp = folder / _STAMP
    wanted = stamp_of(REQUIREMENTS, shared_folders())
    if interpreter.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    tell(f"installing LitServe and BentoML into {folder}, once: about a minute")
    # the stamp goes first and comes last, so an environment that was interrupted is made again
    venv.create(folder, clear=True, symlinks=True, with_pip=True)
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([*pip, "--requirement", str(REQUIREMENTS)], "the package index to hold the peers: this step needs it")
    (site,) = folder.glob("lib/python*/site-packages")
    write_atomically(site / _LINK, "".join(f"{path}\n" for path in shared_folders()).encode())
    found, *_ = json.loads(_run([str(interpreter), "-c", _PROBE], "the peers and this checkout to import together"))
    if Path(found).resolve().parents[1] != ROOT:
        raise RuntimeError(f"Expected the peers to import {ROOT}, got {found}.")
    write_atomically(stamp, wanted.encode())


def peers_interpreter(cache: Path) -> Path:
    """Return the interpreter of the environment of the peers."""
    return (cache / "peers" / "venv" / "bin" / "python").absolute()


def stamp_of(requirements: Path, shared: list[str]) -> str:
    """Tell one environment from another: by its versions, this interpreter and the libraries that it shares."""
    pinned = hashlib.sha256(requirements.read_bytes()).hexdigest()
    return json.dumps({"requirements": pinned, "python": sys.version, "shared": shared})


def shared_folders() -> list[str]:
    """List where the libraries of this environment lie."""
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def pins(requirements: Path = REQUIREMENTS) -> dict[str, str]:
    """Read the pinned versions, by name."""
    lines = (line.split("#")[0].strip() for line in requirements.read_text().splitlines())
    parts = (line.partition("==") for line in lines if line)
    return {name: pinned for name, _, pinned in parts}


def peers_variables(cache: Path) -> dict[str, str]:
    """Return what the environment of a peer has besides: where ours are, and no reports to anybody."""
    home = (cache / "peers" / "bentoml").absolute()
    return {"PYTHONPATH": str(ROOT), "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}


def _run(command: list[str], expected: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment | {"PYTHONPATH": str(ROOT)}
    )
    if done.returncode:
        raise RuntimeError(f"Expected {expected}, got:\n{done.stderr[-2000:]}")
    return done.stdout
