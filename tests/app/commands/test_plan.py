"""`duet plan` as an operator types it."""

import json

import pytest
from typer.testing import CliRunner

from app.commands import app

runner = CliRunner()
USUAL = ["plan", "--devices", "50e6", "--updates-per-day", "12", "--peak-factor", "3", "--budget-ms", "100"]


def test_the_command_of_the_documentation_prints_a_plan() -> None:
    result = runner.invoke(app, [*USUAL, "--mix", "mobile"])

    assert result.exit_code == 0
    for told in ("replicas", "cores", "accelerators", "egress", "cost of 10^6 updates", "p95", "price_core_hour"):
        assert told in result.output


def test_json_is_one_document_with_what_was_changed() -> None:
    result = runner.invoke(app, [*USUAL, "--json", "--set", "price_core_hour=0.5", "--set", "spare_replicas=3"])

    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["assumptions"]["price_core_hour"] == 0.5
    assert document["demand"]["devices"] == 50e6
    assert document["plan"]["cores"] == document["plan"]["replicas"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--mix", "orbital"], "Expected --mix to be one of mobile, home, rural, got 'orbital'."),
        (["--profile", "none"], "Expected --profile to be one of colocated-cpu"),
        (["--budget-ms", "20"], "Expected a budget above 72 ms, which lte takes by itself"),
        (["--report", "pyproject.toml"], "Expected a report.json in pyproject.toml"),
        (["--report", "nowhere.json"], "nowhere.json"),
        (["--set", "spare_replicas"], "Expected NAME=VALUE"),
        (["--set", "spare_replicas=-1"], "spare_replicas: Input should be greater"),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(options: list[str], told: str) -> None:
    result = runner.invoke(app, [*USUAL, *options], env={"COLUMNS": "300"})

    assert result.exit_code == 2
    assert told in result.stderr
    assert "Traceback" not in result.stderr
