"""A service of its own for a load test: something small to serve, and ``duet serve`` in a process of its own."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from app.ports import free_port
from duet.registry import Registry
from duet.registry.copies import publish_copy

if TYPE_CHECKING:
    from rich.console import Console

LOOPBACK = "127.0.0.1"
ORIGINAL, COPY = "loadtest-1", "loadtest-2"
"""The versions of the repository that is served: one version twice, so that a rollover has somewhere to go."""

_CONFIG = Path(__file__).parents[3] / "duet/training/configs/demo.yaml"
_READY_S = 180.0
_STOP_S = 60.0
_POLL_S = 0.2
_GATEWAY = "Gateway"


def small_version(folder: Path, model: str, console: "Console") -> Path:
    """Train two epochs of the demo's model and publish them, unless an earlier run did; return the repository."""
    models = folder / "models"
    if model in Registry(models).models():
        return models
    import torch

    from app.commands.progress import TrainingProgress
    from app.commands.train import load_data, resolve_config
    from duet.publishing import publish
    from duet.training.loop import train

    config = resolve_config(_CONFIG, ["optimisation.max_epochs=2"])
    console.print(f"Nothing is published here: training two epochs of the demo's model into {folder}, once.")
    torch.set_num_threads(1)
    interactions = load_data(config.data, seed=config.seed)
    with TrainingProgress(console, every_epoch=False) as progress:
        train(config, interactions, folder / "run", observer=progress.observer)
    publish(folder / "run", interactions, Registry(models), model, quality_users=60)
    return models


def copies(models: Path, model: str, folder: Path) -> Registry:
    """Publish the active version of a model twice, in a repository of its own, and pin the first.

    Raises:
        UnknownModel: If the model is not published.
    """
    original, registry = Registry(models).open(model), Registry(folder)
    for name in (ORIGINAL, COPY):
        publish_copy(original, registry, name)
    registry.activate(model, ORIGINAL)
    return registry


class Service:
    """A running ``duet serve``.

    Attributes:
        url: Where it answers.
        pid: Its process.
    """

    def __init__(self, url: str, pid: int) -> None:
        self.url, self.pid = url, pid

    def gateway_pid(self) -> int:
        """Find the process of its gateway's replica.

        Raises:
            RuntimeError: If there is not exactly one.
        """
        import psutil  # Locust brings it

        processes = psutil.Process(self.pid).children(recursive=True)
        found = [each.pid for each in processes if _GATEWAY in " ".join(each.cmdline())]
        if len(found) != 1:
            raise RuntimeError(f"Expected one replica of {_GATEWAY} below process {self.pid}, got {len(found)}.")
        return int(found[0])


@contextmanager
def serving(models: Path, model: str, folder: Path, *, cores: str | None, options: Sequence[str]) -> Iterator[Service]:
    """Run ``duet serve`` on a free port, from ready to stopped; its output goes to ``serve.log`` in ``folder``.

    Args:
        models: The repository.
        model: The only model to serve.
        folder: Where the log goes.
        cores: The cores that it may use, as ``taskset -c`` reads them; all without.
        options: Further options of ``duet serve``.

    Raises:
        RuntimeError: If it does not become ready.
    """
    url = f"http://{LOOPBACK}:{(port := free_port(LOOPBACK, 0))}"
    command = [*pinned(cores), sys.executable, "-c", "from app.commands import main; main()", "serve"]
    command += ["--models", str(models), "--model", model, "--port", str(port), *options]
    log = folder / "serve.log"
    with log.open("wb") as output:
        # in a session of its own: Ctrl-C is for this process, which stops the load first
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_until_ready(f"{url}/readyz", server, log)
        yield Service(url, server.pid)
    finally:
        stop(server)


def pinned(cores: str | None) -> list[str]:
    """Return what to put before a command to keep it to some cores."""
    return ["taskset", "-c", cores] if cores else []


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process to end and wait for it; after a minute it is ended."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    if process.poll() is None:
        typer.echo(f"duet: process {process.pid} did not end within {_STOP_S:g} s and was killed.", err=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + _READY_S
    while time.monotonic() < deadline_s and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(_POLL_S)
    told = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise RuntimeError(f"Expected {url} to answer, got: {told[-1] if told else 'nothing'} The log is {log}.")
