"""A run folder has one writer; a second one is told who that is, and a dead one is no obstacle."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from duet.protocol.errors import UnusableRun
from duet.training.loop import train
from duet.training.run_lock import LOCK, lock, try_lock

ROOT = Path(__file__).resolve().parents[3]
HOLDER = (
    "import sys\n"
    "from pathlib import Path\n"
    "from duet.training.run_lock import lock\n"
    "with lock(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@contextmanager
def held_by_another_process(folder):
    """Let another process hold the folder's lock; yields the process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_process_is_refused_and_told_who_is_writing(tiny_config, tiny_interactions, tmp_path):
    with held_by_another_process(tmp_path / "run") as process, pytest.raises(UnusableRun) as caught:
        train(tiny_config, tiny_interactions, tmp_path / "run")

    assert f"process {process.pid} on " in caught.value.reason
    assert "stop it" in caught.value.remedy
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_process_leaves_a_lock_that_holds_nobody_up(tmp_path):
    with held_by_another_process(tmp_path) as process:
        process.kill()
        process.wait()
    assert (tmp_path / LOCK).exists()

    with try_lock(tmp_path) as holder:
        assert holder is None
        assert f"process {os.getpid()} on " in (tmp_path / LOCK).read_text()


def test_after_the_last_writer_nothing_is_left(tmp_path):
    for _ in range(2):
        with lock(tmp_path / "new"):
            assert [path.name for path in (tmp_path / "new").iterdir()] == [LOCK]

    assert list((tmp_path / "new").iterdir()) == []


def test_whoever_asks_for_a_held_folder_does_not_free_it(tmp_path):
    with lock(tmp_path):
        for _ in range(2):
            with try_lock(tmp_path) as holder:
                assert holder is not None

    with try_lock(tmp_path) as holder:
        assert holder is None


def test_a_lock_file_that_its_holder_removes_in_between_locks_nobody(tmp_path, monkeypatch):
    opened, open_path = [], Path.open

    def open_late(path, *arguments, **options):
        file = open_path(path, *arguments, **options)
        if not opened:
            path.unlink()
        opened.append(file)
        return file

    monkeypatch.setattr(Path, "open", open_late)

    with try_lock(tmp_path) as holder:
        assert holder is None
        assert os.path.samestat(os.fstat(opened[-1].fileno()), (tmp_path / LOCK).stat())
    assert len(opened) == 2


def test_a_run_is_freed_when_its_training_stops(tiny_config, tiny_interactions, tmp_path):
    from duet.training.loop import Observer

    def stop(epoch, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_config, tiny_interactions, tmp_path, observer=Observer(on_step=stop))

    assert train(tiny_config, tiny_interactions, tmp_path).finished
