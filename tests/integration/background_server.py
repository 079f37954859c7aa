"""``duet serve`` in a process of its own, for tests that must not share Ray with this one."""

import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 240


@contextmanager
def background_server(
    command: Sequence[str], folder: Path, url: str, context: ssl.SSLContext | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command that serves at ``url``, from ready to stopped; its output goes to ``serve.log`` in ``folder``."""
    log = folder / "serve.log"
    # what this process has set for a server of its own is not in an operator's shell
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        _wait_until_ready(f"{url}/readyz", server, log, context)
        yield server
    finally:
        server.terminate()
        server.wait(timeout=60)


def duet(*arguments: str) -> list[str]:
    """Spell a ``duet`` command of this environment."""
    return [str(Path(sys.executable).with_name("duet")), *arguments]


def _wait_until_ready(url: str, server: "subprocess.Popen[bytes]", log: Path, context: ssl.SSLContext | None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended:\n{log.read_text()}"
        try:
            urllib.request.urlopen(url, timeout=5, context=context).close()
        except OSError:
            pause.wait(0.1)
            continue
        return
    raise AssertionError(f"{url} did not answer within {PATIENCE_S} s:\n{log.read_text()}")
