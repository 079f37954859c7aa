"""A private file is there whole, for its owner alone, or not at all."""

import os
import stat

import pytest

from duet.protocol.private_file import write_private


def test_it_replaces_what_was_there_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)

    write_private(path, "new")

    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["secret"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old")

    with pytest.raises(UnicodeEncodeError):
        write_private(path, "\ud800")

    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["secret"]
