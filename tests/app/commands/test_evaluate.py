"""`duet evaluate`: a table of runs, or a whole grid that can be stopped, repeated and shared."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from app.commands import app
from duet.evaluation.grid import OUTLINE
from duet.evaluation.record import read_record
from duet.training.checkpoint import read_run_config

ROOT = Path(__file__).resolve().parents[3]
NAMES = {"static-s0", "duet-r3-s0", "static-s1", "duet-r3-s1"}


@pytest.fixture
def grid(tmp_path, tiny_config):
    """A grid of four runs, each an epoch on a world of its seed."""
    document = tiny_config.model_dump(mode="json", exclude={"seed"})
    document["optimisation"]["max_epochs"] = 1
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(document))
    runs = {"static": {"model": "static"}, "duet-r3": {"generator.heads": ["factors"]}}
    fields = {"name": "tiny", "base": "base.yaml", "seeds": [0, 1], "runs": runs}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    return path


def arguments(grid, *more):
    folder = grid.parent
    return ["evaluate", "--grid", str(grid), "--runs", f"{folder}/runs", "--results", f"{folder}/results", *more]


def evaluate(*words):
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})


def started(grid):
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from app.commands import main; main()", *arguments(grid)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "300"},
    )


def recorded(grid):
    return {path.stem for path in (grid.parent / "results" / "tiny").glob("*.json")} - {Path(OUTLINE).stem}


def test_runs_are_compared_in_a_table_and_a_document(tiny_run, tmp_path):
    result = evaluate("evaluate", tiny_run, "--out", tmp_path / "new" / "table.json")

    document = json.loads((tmp_path / "new" / "table.json").read_text(encoding="utf-8"))
    assert result.exit_code == 0, result.output
    labels = [line.split("|")[1].strip() for line in result.stdout.splitlines()[2:]]
    ladder = ("factors-r3", "factors-r2", "factors-r1", "full", "factors-r3-int8", "full-int8", "shared")
    assert labels == [f"duet-r3+full, {name}" for name in ladder]
    assert [row["label"] for row in document["rows"]] == labels
    assert document["configurations"].keys() == {"duet-r3+full"}
    assert {"dataset", "users", "items", "part", "candidates", "commit", "hardware", "versions"} < document.keys()


def test_a_grid_leaves_records_and_a_table(grid):
    result = evaluate(*arguments(grid))

    assert result.exit_code == 0, result.output
    assert recorded(grid) == NAMES
    assert "tiny: 4 runs, 4 to do." in result.stderr
    assert [line.split("|")[1].strip() for line in result.stdout.splitlines()[2:]][:2] == [
        "static",
        "duet-r3, factors-r3",
    ]
    assert "| 2 |" in result.stdout

    again = evaluate(*arguments(grid))

    assert "tiny: 4 runs, 0 to do." in again.stderr
    assert again.stdout == result.stdout


def test_a_part_of_a_grid_can_be_run(grid):
    first = evaluate(*arguments(grid, "--only", "duet-r3", "--limit", "1"))

    assert first.exit_code == 0, first.output
    assert recorded(grid) == {"duet-r3-s0"}

    second = evaluate(*arguments(grid, "--only", "duet-r3", "--only", "static", "--limit", "2"))

    assert "tiny: 4 runs, 3 to do." in second.stderr
    assert recorded(grid) == {"duet-r3-s0", "static-s0", "static-s1"}


def test_the_run_folder_of_a_cell_is_a_run_like_any_other_and_knows_where_its_data_lie(grid):
    log = grid.parent / "log.txt"
    log.write_text(
        "".join(f"{user} " + " ".join(str(item) for item in range(user, user + 9)) + "\n" for user in range(30))
    )
    evaluate(*arguments(grid, "--data", log, "--limit", "2"))

    run = grid.parent / "runs" / "tiny" / "duet-r3-s0"
    result = evaluate("evaluate", run)

    assert read_run_config(run).data.source == str(log)
    assert result.exit_code == 0, result.output
    assert str(log) not in (grid.parent / "results" / "tiny" / "duet-r3-s0.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "neither"),
        (["RUN", "--grid", "GRID"], "both"),
        (["RUN", "--limit", "2"], "--limit and --only need --grid"),
        (["RUN", "--only", "static"], "--limit and --only need --grid"),
        (["--grid", "GRID", "--part", "validation"], "test items"),
        (["--grid", "GRID", "--only", "dynamic"], "static, duet-r3"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(grid, tmp_path, words, message):
    result = evaluate("evaluate", *(str(grid) if word == "GRID" else word for word in words))

    assert result.exit_code == 2
    assert message in result.stderr


def test_a_changed_setting_is_refused_with_a_remedy(grid):
    evaluate(*arguments(grid, "--limit", "1"))
    text = (grid.parent / "base.yaml").read_text()
    (grid.parent / "base.yaml").write_text(text.replace("max_epochs: 1", "max_epochs: 2"))

    result = evaluate(*arguments(grid))

    assert result.exit_code == 2
    assert "optimisation.max_epochs: 1 there, 2 asked" in result.stderr
    assert "Delete it" in result.stderr


@pytest.mark.slow
def test_two_processes_share_a_grid_that_a_killed_one_has_begun(grid):
    first = started(grid)
    for line in first.stderr:
        if line.startswith("static-s0"):
            break
    first.kill()
    first.communicate(timeout=60)
    before = recorded(grid)
    processes = [started(grid) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], said
    assert recorded(grid) == NAMES
    assert sum(text.count("Wrote") for text in said) == 4 - len(before)
    for name in NAMES:
        read_record(grid.parent / "results" / "tiny" / f"{name}.json")
        assert not (grid.parent / "runs" / "tiny" / name / ".lock").exists()
