"""Where RecBole lives: an environment of its own, which sees ours for torch, numpy, scipy and scikit-learn.

RecBole 1.2.1 asks for Ray 2.6.3 at most, which it needs to tune and nowhere else, and for old pins of two small
packages; so it is installed without its dependencies, and those it imports are named here. Of pandas it needs a 2: the
``agg`` of 3 takes a whole column where RecBole counts on one value after the other.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

CACHE = Path(".cache/benchmarks").absolute()
REQUIREMENTS = (
    "recbole==1.2.1",
    "thop",
    "colorlog",
    "texttable",
    "tabulate",
    "colorama",
    "tqdm",
    "plotly",
    "pandas<3",
    "pytz",
)


def environment() -> Path:
    """Return the interpreter of RecBole's environment, which is made and filled if need be.

    Raises:
        RuntimeError: If it cannot be installed; says why.
    """
    folder = CACHE / "recbole"
    python, ready = folder / "bin" / "python", folder / f".ready-{'.'.join(map(str, sys.version_info[:2]))}"
    wanted = "\n".join(REQUIREMENTS)
    if ready.exists() and ready.read_text() == wanted:
        return python
    print(f"Installing RecBole into {folder}", flush=True)
    venv.create(folder, with_pip=True)
    ours = sysconfig.get_paths()["purelib"]
    (theirs,) = (folder / "lib").glob("python*/site-packages")
    (theirs / "ours.pth").write_text(f"{ours}\n")
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *REQUIREMENTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Expected to install {', '.join(REQUIREMENTS)}, but pip says: {done.stderr[-1000:]}")
    ready.write_text(wanted)
    return python
