"""How the command line reads its options, and writes them where it tells what to type."""

import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from app.commands import app
from app.commands.arguments import check_models_folder, read_sample, sample_text
from app.schemas import MAX_BUDGET_MS
from duet.device import client
from duet.protocol.errors import InvalidSample


@pytest.mark.parametrize(
    "ids",
    [(101, 103, 107), ("b00", "B-1.x"), (-5, 3), ("a,b", "it's"), ("0115", "@home"), ("[1", " a"), ("é", "7")],
    ids=["integers", "text", "negative", "comma and quote", "at", "bracket and blank", "text of a number"],
)
def test_a_sample_that_is_shown_is_read_as_the_same_ids(ids: tuple[str | int, ...]) -> None:
    (argument,) = shlex.split(sample_text(ids))

    item_type = "string" if all(isinstance(raw, str) for raw in ids) else "any"
    assert read_sample(argument, item_type=item_type) == list(ids)


def test_plain_ids_are_shown_without_brackets_or_quotes() -> None:
    assert sample_text([101, 103, 107]) == "101,103,107"


@pytest.mark.parametrize("name", ["no-such-file", "."], ids=["missing", "folder"])
def test_a_sample_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidSample, match=r"Expected the sample to be in a file .*Check the path") as refusal:
        read_sample(f"@{tmp_path / name}")

    assert "Errno" not in str(refusal.value)


def test_the_largest_budget_is_the_same_for_command_device_and_cloud() -> None:
    largest = str(int(client.MAX_BUDGET_MS))
    arguments = ["device", "--url", "http://127.0.0.1:1", "--model", "../x", "--sample", "1", "--budget-ms"]

    accepted = CliRunner().invoke(app, [*arguments, largest])
    refused = CliRunner().invoke(app, [*arguments, f"{largest}.5"])

    assert largest == str(MAX_BUDGET_MS)
    assert "Expected a name" in accepted.stderr
    assert "--budget-ms" in refused.stderr


def test_a_file_is_no_folder_of_models(tmp_path: Path) -> None:
    (tmp_path / "my-log.csv").write_text("user,item\n")

    with pytest.raises(typer.BadParameter, match=r"Expected the folder .*my-log\.csv.*--data"):
        check_models_folder(tmp_path / "my-log.csv")

    assert check_models_folder(tmp_path) == tmp_path
    assert check_models_folder(tmp_path / "not-yet") == tmp_path / "not-yet"
