"""The environment of the peers is made again when its versions or what it shares change, and never half believed."""

import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.peers import environment
from benchmarks.peers.environment import peers_environment, peers_interpreter, pins, shared_folders, stamp_of


def test_every_requirement_is_pinned() -> None:
    pinned = pins()

    assert set(environment.PEERS) < pinned.keys()
    assert all(version and version[0].isdigit() for version in pinned.values())


def test_what_the_stages_need_is_shared_and_not_pinned_again() -> None:
    assert (
        not {"numpy", "torch", "onnxruntime", "pydantic", "fastapi", "starlette", "uvicorn", "uvloop"} & pins().keys()
    )
    assert any((Path(folder) / "torch").is_dir() for folder in shared_folders())


def test_other_versions_or_other_libraries_are_another_environment(tmp_path: Path) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("litserve==1.0\n")
    other.write_text("litserve==1.1\n")

    stamps = {stamp_of(one, ["/a"]), stamp_of(other, ["/a"]), stamp_of(one, ["/b"])}
    assert len(stamps) == 3
    assert stamp_of(one, ["/a"]) in stamps


def test_one_that_is_there_is_used_and_one_without_its_stamp_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = peers_interpreter(tmp_path)
    interpreter.parent.mkdir(parents=True)
    shutil.copy(sys.executable, interpreter)
    stamp = interpreter.parents[1] / environment._STAMP
    stamp.write_text(stamp_of(environment.REQUIREMENTS, shared_folders()))
    told: list[str] = []

    peers_environment(tmp_path, told.append)
    assert told == []

    # an index without packages, in no time and without a network
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    stamp.unlink()
    with pytest.raises(RuntimeError, match="the package index to hold the peers"):
        peers_environment(tmp_path, told.append)
    assert len(told) == 1
    assert not stamp.exists()
