"""``duet train --workers``: what is killed starts again or goes on where it stopped; nothing of Ray stays behind."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from duet.training.config import TrainingConfig
from tests.duet.training.test_loop import assert_same_run, changed
from tests.integration.background_server import duet

pytestmark = [pytest.mark.serve, pytest.mark.long]

PATIENCE_S = 300
EPOCHS = 60


@pytest.fixture(scope="module")
def config(tiny_config: TrainingConfig) -> TrainingConfig:
    """A run that lasts long enough to be killed in the middle; two workers have nothing to draw for themselves."""
    return changed(
        tiny_config,
        backbone__dropout=0.0,
        generator__dropout=0.0,
        optimisation__max_epochs=EPOCHS,
        optimisation__patience=EPOCHS,
    )


@pytest.fixture(scope="module")
def alone(config: TrainingConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    with training(config, folder, 0) as process:
        assert process.wait(PATIENCE_S) == 0
    return folder / "run"


@contextmanager
def training(config: TrainingConfig, folder: Path, workers: int) -> Iterator["subprocess.Popen[str]"]:
    """``duet train --workers`` in a process group of its own; its output goes to ``train.log``."""
    (folder / "config.yaml").write_text(config.to_yaml())
    command = duet("train", str(folder / "config.yaml"), "--out", str(folder / "run"), "--threads", "1")
    command += ["--workers", str(workers)] if workers else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (folder / "train.log").open("a") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, text=True, start_new_session=True, cwd=folder
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Poll until something is so."""
    deadline, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, what
        pause.wait(0.01)


def epochs_done(folder: Path) -> int:
    path = folder / "run" / "history.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def trainers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:  # gone meanwhile
            continue
    return found


def assert_all_gone(processes: list[psutil.Process]) -> None:
    wait_for(
        lambda: not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE],
        "processes of Ray are left",
    )


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "history.jsonl").read_text().splitlines()]


def test_one_worker_that_is_killed_ends_bit_for_bit_like_one_process(
    config: TrainingConfig, alone: Path, tmp_path: Path
) -> None:
    with training(config, tmp_path, 1) as process:
        wait_for(lambda: epochs_done(tmp_path) >= 2, "no epoch was finished")
        (victim,) = trainers(process)
        victim.kill()
        done = process.wait(PATIENCE_S)

    told = (tmp_path / "train.log").read_text()
    assert done == 0, told
    assert_same_run(tmp_path / "run", alone)
    assert [line.split()[1] for line in told.splitlines() if line.startswith("epoch")] == [
        str(epoch + 1) for epoch in range(EPOCHS)
    ]


def test_a_killed_driver_takes_its_ray_along_and_the_same_command_goes_on(
    config: TrainingConfig, alone: Path, tmp_path: Path
) -> None:
    with training(config, tmp_path, 2) as process:
        wait_for(lambda: epochs_done(tmp_path) >= 2, "no epoch was finished")
        started = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()

    with training(config, tmp_path, 2) as process:
        assert process.wait(PATIENCE_S) == 0, (tmp_path / "train.log").read_text()

    assert "Going on after epoch" in (tmp_path / "train.log").read_text()
    assert losses(tmp_path / "run")[:5] == pytest.approx(losses(alone)[:5], rel=1e-4)
    # the order of additions differs, and steps this long make much of it
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), rel=0.02)
    assert_all_gone(started)
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_ctrl_c_stops_the_run_and_its_ray(config: TrainingConfig, tmp_path: Path) -> None:
    with training(config, tmp_path, 2) as process:
        wait_for(lambda: epochs_done(tmp_path) >= 1, "no epoch was finished")
        started = psutil.Process(process.pid).children(recursive=True)
        # as a terminal does: to the whole group
        os.killpg(process.pid, signal.SIGINT)
        done = process.wait(PATIENCE_S)

    told = (tmp_path / "train.log").read_text()
    assert done == 130, told
    assert told.splitlines()[-1] == "Stopped."
    assert "Traceback" not in told
    assert_all_gone(started)
    assert 1 <= epochs_done(tmp_path) < EPOCHS


def test_what_would_fail_again_is_told_in_one_line(config: TrainingConfig, tmp_path: Path) -> None:
    diverging = changed(config, optimisation__learning_rate=1e30)

    with training(diverging, tmp_path, 2) as process:
        done = process.wait(PATIENCE_S)

    told = (tmp_path / "train.log").read_text().splitlines()
    assert done == 1, told
    assert told[-1].startswith("duet: Expected a finite loss")
    assert len(told) == 2
