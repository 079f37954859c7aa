"""A server in a process of its own, kept to stated cores, for as long as a block lasts."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import psutil

from app.ports import free_port

READY_S = 120.0
_STOP_S = 60.0
_LEFT_S = 2.0
_POLL_S = 0.05
_GATEWAY = "Gateway"
_DUET = "from app.commands import main; main()"


@contextmanager
def pinned(
    command: Sequence[str],
    *,
    cores: str,
    variables: Mapping[str, str] | None = None,
    interpreter: Path | str = sys.executable,
) -> Iterator[str]:
    """Run a server on some cores of this machine, and end it and all that it started afterwards.

    It has a session of its own: Ctrl-C reaches this process alone, which ends the server in order.

    Args:
        command: What to run, without its interpreter; ``--port N`` is added.
        cores: As ``taskset -c`` reads them.
        variables: Of its environment, beside those of this process.
        interpreter: Of the environment that it lives in; this one by default.

    Yields:
        Its address.

    Raises:
        RuntimeError: If it does not become ready; its output is shown.
    """
    port = free_port("127.0.0.1", 0)
    with tempfile.TemporaryFile("w+") as output:
        line = ["taskset", "-c", cores, str(interpreter), *command, "--port", str(port)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(variables or {})
        server = subprocess.Popen(
            line, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            _wait(server, f"http://127.0.0.1:{port}/readyz", output)
            yield f"http://127.0.0.1:{port}"
        finally:
            _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ask a server to end, and kill what is left of it, even when this is interrupted."""
    below: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(server.pid).children(recursive=True)
    try:
        server.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_S)
        psutil.wait_procs(below, _LEFT_S)
    finally:
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with suppress(ProcessLookupError):  # what a process left behind that has died stays in its group
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        psutil.wait_procs(below, _STOP_S)


@contextmanager
def confined(cores: str) -> Iterator[None]:
    """Keep this process, a load generator say, to some cores.

    Args:
        cores: As ``taskset -c`` reads them.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores_of(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores_of(told: str) -> set[int]:
    """Read cores as ``taskset -c`` does: ``0,2-3``."""
    spans = [part.partition("-")[::2] for part in told.split(",")]
    return {core for first, last in spans for core in range(int(first), int(last or first) + 1)}


def ours(models: Path, model: str, *options: str) -> list[str]:
    """Return the command of our server."""
    return ["-c", _DUET, "serve", "--models", str(models), "--model", model, *options]


def application(import_path: str, models: Path, model: str, *options: str) -> list[str]:
    """Return the command that runs another application on the same ingress."""
    return ["-m", "benchmarks.serving.run", import_path, "--models", str(models), "--model", model, *options]


def gateway_of(pid: int) -> psutil.Process:
    """Find the gateway's replica among the descendants of a server.

    Raises:
        RuntimeError: If there is not exactly one.
    """
    found = [each for each in psutil.Process(pid).children(recursive=True) if _GATEWAY in " ".join(each.cmdline())]
    if len(found) != 1:
        raise RuntimeError(f"Expected one replica of {_GATEWAY} below process {pid}, got {len(found)}.")
    return found[0]


def _wait(server: subprocess.Popen[bytes], url: str, output: TextIO) -> None:
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s and server.poll() is None:
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(_POLL_S)
    output.seek(0)
    raise RuntimeError(f"Expected {url} to answer within {READY_S:g} s, got:\n{output.read()[-4000:]}")
