"""A replica prepares by itself what the pins name, before a request asks for it, and gives up on nothing for good."""

import gc
import threading
from pathlib import Path

import pytest

from deployments.loading import VersionLoader
from deployments.pin_follower import PinFollower
from duet.protocol.errors import CorruptVersion
from duet.registry import Registry
from tests.published_version import write_version


class Stage:
    """Remember what was prepared; refuse what it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refused: set[str] = set()
        self.looked = threading.Event()

    def prepare(self, model: str, version: str) -> None:
        self.asked.append(version)
        self.looked.set()
        if version in self.refused:
            raise CorruptVersion(path=f"{model}/{version}", reason="its golden output differs")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Versions v1, which is pinned, v2 and v3."""
    for number in (1, 2, 3):
        write_version(tmp_path, version=f"v{number}", seed=number)
    Registry(tmp_path).activate("tiny", "v1")
    return tmp_path


def test_the_pinned_version_the_canary_and_the_one_before_are_prepared(models: Path) -> None:
    stage = Stage()
    follower = PinFollower(models, stage.prepare, only=None)

    follower.look()
    Registry(models).start_canary("tiny", "v2", 10)
    follower.look()

    # v3 was the newest, and so the active one, before v1 was pinned
    assert stage.asked == ["v1", "v3", "v1", "v2", "v3"]


def test_only_the_named_model_is_prepared(models: Path) -> None:
    write_version(models, "other", version="o1")
    stage = Stage()

    PinFollower(models, stage.prepare, only="other").look()

    assert stage.asked == ["o1"]


def test_a_pin_is_read_again_when_its_folder_has_changed_and_only_then(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = PinFollower(models, Stage().prepare, only=None)
    follower.look()
    read = Registry.pin
    reads: list[str] = []
    monkeypatch.setattr(Registry, "pin", lambda registry, model: (reads.append(model), read(registry, model))[1])

    follower.look()
    unchanged = list(reads)
    Registry(models).rollback("tiny")
    reads.clear()
    follower.look()

    assert (unchanged, reads) == ([], ["tiny"])


def test_what_cannot_be_prepared_is_told_once_and_tried_ever_more_rarely(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    stage.refused.add("v3")
    follower = PinFollower(models, stage.prepare, only=None)

    for _ in range(64):
        follower.look()
    tried = stage.asked.count("v3")
    stage.refused.clear()
    for _ in range(64):
        follower.look()

    assert stage.asked.count("v1") == 128
    # at looks 1, 2, 4, 8, 16, 32 and 64
    assert tried == 7
    assert stage.asked.count("v3") - tried >= 64 - 32
    assert caplog.text.count("golden output differs") == 1


def test_a_repository_that_cannot_be_read_leaves_what_was_wanted(models: Path) -> None:
    stage = Stage()
    follower = PinFollower(models, stage.prepare, only=None)
    follower.look()

    (models / "tiny" / "active").write_text("?")
    follower.look()

    assert stage.asked == ["v1", "v3"] * 2


def test_it_follows_in_the_background_as_long_as_somebody_holds_it(models: Path) -> None:
    stage = Stage()
    before = set(threading.enumerate())
    follower = PinFollower(models, stage.prepare, only=None)
    follower.start(loader=VersionLoader(), every_s=0.01)
    (thread,) = [thread for thread in set(threading.enumerate()) - before if thread.name.endswith("(_follow)")]
    assert stage.looked.wait(10)

    del follower
    gc.collect()
    thread.join(10)

    assert not thread.is_alive()
