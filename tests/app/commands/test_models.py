"""``duet models`` on a repository of real, tiny versions."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.commands import app
from duet.protocol.representation import Representation
from duet.registry import Registry
from tests.published_version import TABLE, write_version


def duet_models(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", "--models", str(folder), *arguments], env={"COLUMNS": "120"})


def test_models_without_a_subcommand_lists_them(models: Path) -> None:
    write_version(models, "films", "first")

    result = duet_models(models)

    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()[1:]] == [["films", "first", "1"], ["tiny", "v2", "2"]]
    assert duet_models(models, "list").stdout == result.stdout


def test_an_empty_repository_says_how_to_fill_it(tmp_path: Path) -> None:
    result = duet_models(tmp_path)

    assert result.exit_code == 0
    assert f"duet publish RUN --models {tmp_path}" in "".join(result.stdout.splitlines())


@pytest.mark.parametrize(
    "subcommand", [[], ["list"], ["show", "tiny"], ["verify"], ["activate", "tiny", "v1"]], ids=str
)
def test_a_folder_that_is_missing_is_the_callers_mistake(tmp_path: Path, subcommand: list[str]) -> None:
    result = duet_models(tmp_path / "nothing", *subcommand)

    assert result.exit_code == 2
    assert result.stderr.startswith(f"duet: Expected the folder of published models at {tmp_path / 'nothing'}, got no")
    assert "--models" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("subcommand", [["list"], ["verify"]], ids=str)
def test_a_file_in_the_place_of_the_folder_is_called_a_file(tmp_path: Path, subcommand: list[str]) -> None:
    (tmp_path / "log.csv").write_text("user,item")

    before = duet_models(tmp_path / "log.csv", *subcommand)
    after = CliRunner().invoke(app, ["models", *subcommand, "--models", str(tmp_path / "log.csv")])

    for result in (before, after):
        assert result.exit_code == 2
        assert "got the file" in " ".join(result.stderr.replace("│", " ").split())


def test_the_remedy_for_a_damaged_pin_repairs_it_where_it_is(models: Path) -> None:
    (models / "tiny" / "active").write_text("?")

    refused = duet_models(models, "show", "tiny")
    remedy = re.search("`duet (models activate [^`]*)`", refused.stderr)
    assert remedy is not None
    repaired = CliRunner().invoke(app, shlex.split(remedy[1].replace("VERSION", "v1")))

    assert (refused.exit_code, repaired.exit_code) == (2, 0)
    assert Registry(models).active("tiny") == "v1"


def test_a_model_whose_pin_is_damaged_does_not_hide_the_others(models: Path) -> None:
    write_version(models, "films", "first")
    (models / "films" / "active").write_text("?")

    result = duet_models(models)

    assert result.exit_code == 0
    assert "the pin cannot be read" in " ".join(result.stdout.split())
    assert ["tiny", "v2", "2"] in [line.split() for line in result.stdout.splitlines()]


def test_show_lists_every_representation_with_bytes_and_quality(models: Path) -> None:
    result = duet_models(models, "show", "tiny")

    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.strip()}
    assert result.exit_code == 0
    for record in Registry(models).open("tiny").manifest.representations:
        assert rows[str(record.representation)][:2] == [f"{record.package_bytes:,}", f"{record.quality.value:.4f}"]
    assert "tiny v2 (active)" in result.stdout
    assert "others       v1" in result.stdout


def test_show_reads_the_version_that_is_asked_for(models: Path) -> None:
    result = duet_models(models, "show", "tiny", "--version", "v1")

    assert "tiny v1\n" in result.stdout
    assert Registry(models).open("tiny", "v1").digest.hex() in result.stdout
    assert f"{TABLE.package_bytes(Representation.parse('full-float16')):,}" in result.stdout


def test_an_unknown_model_names_the_known_ones(models: Path) -> None:
    result = duet_models(models, "show", "films")

    assert result.exit_code == 2
    assert result.stderr.startswith("duet: ")
    assert "'films'" in result.stderr
    assert "tiny" in result.stderr


def test_verify_passes_over_every_version_as_published(models: Path) -> None:
    result = duet_models(models, "verify")

    assert result.exit_code == 0
    assert [line.split()[:3] for line in result.stdout.splitlines()] == [["ok", "tiny", "v1:"], ["ok", "tiny", "v2:"]]


def test_verify_reports_the_version_that_was_edited_and_goes_on(models: Path) -> None:
    edited = models / "tiny" / "v1" / "card.md"
    edited.write_text(edited.read_text().replace("Random", "random"))

    result = duet_models(models, "verify", "tiny")

    assert result.exit_code == 2
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["damaged", "ok"]
    assert "card.md" in result.stdout


def test_activate_and_rollback_move_the_pin(models: Path) -> None:
    registry = Registry(models)

    activated = duet_models(models, "activate", "tiny", "v1")
    active_after = registry.active("tiny")
    rolled_back = duet_models(models, "rollback", "tiny")

    assert (activated.exit_code, activated.stdout) == (0, "tiny v1 is active.\n")
    assert active_after == "v1"
    assert (rolled_back.exit_code, rolled_back.stdout) == (0, "tiny v2 is active again.\n")
    assert registry.active("tiny") == "v2"


def test_activating_a_version_that_does_not_exist_changes_nothing(models: Path) -> None:
    result = duet_models(models, "activate", "tiny", "v3")

    assert result.exit_code == 2
    assert "v1, v2" in result.stderr
    assert Registry(models).active("tiny") == "v2"


def test_verify_with_nothing_to_verify_says_so(tmp_path: Path) -> None:
    result = duet_models(tmp_path, "verify")

    assert result.exit_code == 2
    assert "none to verify" in result.stderr


def test_the_folder_may_stand_after_the_subcommand(models: Path) -> None:
    for subcommand in (["list"], ["verify"], ["show", "tiny"], ["activate", "tiny", "v1"], ["rollback", "tiny"]):
        result = CliRunner().invoke(app, ["models", *subcommand, "--models", str(models)])

        assert result.exit_code == 0
        assert "tiny" in result.stdout


def test_a_model_of_one_version_has_no_earlier_one(tmp_path: Path) -> None:
    write_version(tmp_path, "films", "first")

    result = duet_models(tmp_path, "rollback", "films")

    assert result.exit_code == 2
    assert "there is no earlier one" in result.stderr
