"""The demo replaces what an earlier demo left, and touches nothing else; what it shows is plain text."""

import pytest
from typer.testing import CliRunner

from app.commands import app
from app.commands.demo.command import _empty
from duet.protocol.errors import UnusableRun


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "precious.csv").write_text("user,item\n")

    with pytest.raises(UnusableRun, match=r"precious\.csv"):
        _empty(tmp_path)

    assert (tmp_path / "precious.csv").exists()


def test_an_earlier_demo_is_removed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "report.html").write_text("old")

    _empty(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_missing_data_are_reported_before_anything_is_removed(tmp_path):
    (tmp_path / "report.html").write_text("old")

    result = CliRunner().invoke(app, ["demo", "--data", str(tmp_path / "no #1.csv"), "--out", str(tmp_path)])

    assert result.exit_code == 2
    assert "no #1.csv" in result.stderr
    assert (tmp_path / "report.html").exists()
