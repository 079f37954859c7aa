"""The README's command blocks run as they stand, in order, in a folder of their own.

`make test` is this run, so it is left out; `make demo` runs in its smallest setting, without the set-up that this
environment already is. `duet serve` runs in the background until the blocks end. Its port, and the one that the blocks
after it name, is a free one: a reader's 8000 is free, that of a machine that runs tests need not be.
"""

import csv
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from inspect import signature
from pathlib import Path

import pytest

from app.commands.device import device
from app.commands.serve import serve
from app.ports import free_port
from tests.integration.background_server import background_server, duet

ROOT = Path(__file__).parents[2]
ADDRESS = "127.0.0.1:8000"
# the demo computes for 45 s, on a core that it may have to share
PATIENCE_S = 900
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a small log, and this environment's commands first on the path."""
    from duet.data.loading import load

    log = load("synthetic:tiny")
    with (tmp_path / "my-log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "timestamp"])
        for user in range(log.user_count):
            for step, item in enumerate(log.sequence(user)):
                writer.writerow([log.users[user], log.item_ids[item - 1], step])
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.serve
@pytest.mark.slow
def test_every_command_block_of_the_readme_runs_and_does_what_it_says(workplace):
    outputs: dict[str, str] = {}
    port = str(free_port("127.0.0.1", 0))
    with ExitStack() as until_the_end:
        for language, written in blocks():
            text = written.replace(ADDRESS, f"127.0.0.1:{port}")
            if language == "python":
                outputs["python"] = run([sys.executable, "-c", text], workplace)
                continue
            for line in text.strip().splitlines():
                if line == "make test":
                    continue
                if line == "make demo":
                    outputs[line] = run(["duet", "demo", "--quick", "--out", "runs/demo"], workplace)
                elif line.startswith("duet serve"):
                    command = duet(*line.split()[1:], "--port", port)
                    server = background_server(command, workplace, f"http://127.0.0.1:{port}")
                    until_the_end.enter_context(server)
                else:
                    if line.startswith("duet device"):
                        line += f" --url http://127.0.0.1:{port}"
                    outputs[line.split(" --")[0]] = run(["bash", "-c", line], workplace)

    # a reader who names no port gets the one that the other blocks name
    assert signature(serve).parameters["port"].default == int(ADDRESS.rsplit(":", 1)[1])
    assert ADDRESS in signature(device).parameters["url"].default
    assert "fresh" in outputs["make demo"]
    assert (workplace / "runs/demo/report.html").stat().st_size > 10_000
    assert outputs["python"].startswith("updated")
    assert (workplace / "parameters.duet").read_bytes()[:4] == b"DUET"


def test_the_readme_shows_both_commands_and_fits_on_a_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert ("sh", "make demo\n") in blocks()
    assert ("sh", "make test\n") in blocks()
    assert len(text.splitlines()) < 200
