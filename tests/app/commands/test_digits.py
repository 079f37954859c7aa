"""The commands on images: train, evaluate and publish ask the data what they are, and refuse what does not fit."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from app.commands import app


def duet(*words):
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})


@pytest.fixture
def config(tmp_path, digits_config):
    (tmp_path / "small.yaml").write_text(digits_config.with_max_epochs(1).to_yaml())
    return tmp_path / "small.yaml"


def test_a_run_is_trained_and_compared_with_its_static_baseline(config, tmp_path):
    runs = {model: tmp_path / model for model in ("static", "duet")}

    trained = {model: duet("train", config, "--model", model, "--out", run) for model, run in runs.items()}
    compared = duet("evaluate", *runs.values(), "--out", tmp_path / "table.json")

    assert [result.exit_code for result in (*trained.values(), compared)] == [0, 0, 0]
    assert "40 devices with 48 pictures each" in trained["duet"].stdout
    assert "validation accuracy" in trained["duet"].stdout
    assert "NDCG" not in trained["duet"].stdout
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert rows[0]["label"] == "static"
    assert {f"duet-r3+full, {name}" for name in ("factors-r3", "full", "shared", "stale-8", "swapped")} <= {
        row["label"] for row in rows
    }
    assert f"| {rows[1]['label']} | 1 | {rows[1]['accuracy'][0]:.4f} |" in compared.stdout
    assert rows[1]["to_static"] is not None


def test_runs_of_two_tasks_are_not_compared(digits_run, tiny_run):
    result = duet("evaluate", digits_run, tiny_run)

    assert result.exit_code == 2
    assert "it ranks items" in result.stderr


def test_a_grid_of_classifiers_is_refused(config, tmp_path):
    grid = {"name": "digits", "base": config.name, "seeds": [0], "runs": {"static": {"model": "static"}}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))

    result = duet("evaluate", "--grid", tmp_path / "grid.yaml", "--results", tmp_path, "--runs", tmp_path)

    assert result.exit_code == 2
    assert "runs that rank items" in result.stderr
