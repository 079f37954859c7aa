"""`duet report` writes a document and says what it found."""

from typer.testing import CliRunner

from app.commands import app
from tests.duet.evaluation.test_report import fill


def report(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)], env={"COLUMNS": "200"})


def test_tables_and_plots_of_every_grid_are_written(tmp_path):
    fill(tmp_path / "results", without=["static-s1"])

    result = report(tmp_path / "results", "--out", tmp_path / "report.md")

    assert result.exit_code == 0, result.output
    assert "paper: 5 runs, 1 missing: static-s1." in result.stdout
    assert f"Wrote {tmp_path / 'report.md'}." in result.stdout
    assert "<!-- grid paper -->" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_folder_without_records_is_the_callers_mistake(tmp_path):
    result = report(tmp_path, "--out", tmp_path / "report.md")

    assert result.exit_code == 2
    assert "duet evaluate --grid" in result.stderr
