"""The demo replaces what an earlier demo left, and touches nothing else; what it shows is plain text."""

import pytest
from typer.testing import CliRunner

from app.commands import app
from app.commands.demo.command import _config, _empty, _lives
from app.commands.train import load_data
from duet.protocol.errors import UnusableRun
from duet.training.tasks import split_of


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


def test_a_log_too_small_for_devices_is_refused_before_anything_is_trained_or_removed(tmp_path):
    rows = [f"{user},{item},{item}" for user in range(50) for item in range(21)]
    (tmp_path / "small.csv").write_text("\n".join(["user,item,timestamp", *rows]))
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "report.html").write_text("old")

    result = CliRunner().invoke(app, ["demo", "--data", str(tmp_path / "small.csv"), "--out", str(tmp_path / "demo")])

    assert result.exit_code == 2
    assert "more than 21 interactions among the 12 that are kept out" in result.stderr
    assert result.stdout == ""
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["report.html"]


def test_users_just_long_enough_become_devices(tmp_path):
    rows = [f"{user},{item},{item}" for user in range(50) for item in range(22)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,timestamp", *rows]))
    config = _config(str(tmp_path / "log.csv"), quick=True)

    lives = _lives(split_of(config, load_data(config.data, seed=0)), 5, length=30)

    assert [[(moment.step, len(moment.stale_history)) for moment in moments] for moments in lives] == [[(21, 1)]] * 5
