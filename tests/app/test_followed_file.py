"""A followed file is read when it changes and not before; one that breaks is told once and changes nothing."""

import logging
import os
from pathlib import Path

import pytest

from app.followed_file import LOOK_EVERY_S, FollowedFile
from duet.protocol.access_errors import InvalidKeyFile


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def read(path: Path) -> list[str]:
    text = path.read_text()
    if "broken" in text:
        raise InvalidKeyFile(path=path, line=1, expected="words", received="others", remedy="Write words.")
    return text.split()


def replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "words"
    path.write_text("old")
    return path


def test_a_change_is_seen_at_the_next_look_and_costs_nothing_before(path: Path, clock: Clock) -> None:
    file = FollowedFile(path, read, clock=clock)
    first = file.content()
    replace(path, "new")

    assert file.content() is first
    clock.now += LOOK_EVERY_S
    assert file.content() == ["new"]
    assert file.content() is file.content()


def test_a_broken_file_is_told_once_and_the_last_good_one_stays(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    file = FollowedFile(path, read, clock=clock)
    replace(path, "broken")

    for _ in range(3):
        clock.now += LOOK_EVERY_S
        assert file.content() == ["old"]

    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "Going on with what" in caplog.text


def test_a_file_that_is_gone_changes_nothing_and_counts_again_when_it_is_back(path: Path, clock: Clock) -> None:
    file = FollowedFile(path, read, clock=clock)
    path.unlink()
    clock.now += LOOK_EVERY_S
    assert file.content() == ["old"]

    path.write_text("back")
    clock.now += LOOK_EVERY_S

    assert file.content() == ["back"]


def test_a_file_that_cannot_be_read_at_first_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FollowedFile(tmp_path / "nowhere", read)
