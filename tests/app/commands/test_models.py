"""``duet models`` on a repository of real, tiny versions."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.commands import app
from duet.protocol.representation import Representation
from duet.registry import Registry
from tests.app.commands.conftest import FakeCloud
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


def test_show_ends_with_the_model_card(models: Path) -> None:
    result = duet_models(models, "show", "tiny")

    assert result.stdout.rstrip().endswith((models / "tiny" / "v2" / "model_card.md").read_text().rstrip())


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
    edited = models / "tiny" / "v1" / "model_card.md"
    edited.write_text(edited.read_text().replace("Random", "random"))

    result = duet_models(models, "verify", "tiny")

    assert result.exit_code == 2
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["damaged", "ok"]
    assert "model_card.md" in result.stdout


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


def test_a_canary_is_started_widened_shown_and_ended(models: Path) -> None:
    registry = Registry(models)
    registry.activate("tiny", "v1")

    started = duet_models(models, "activate", "tiny", "v2", "--canary", "10")
    shown = duet_models(models, "status", "tiny")
    widened = duet_models(models, "activate", "tiny", "v2", "--canary", "50")
    percent = registry.pin("tiny").canary.percent
    ended = duet_models(models, "rollback", "tiny")
    shown_after = duet_models(models, "status", "tiny")

    assert [result.exit_code for result in (started, shown, widened, ended, shown_after)] == [0] * 5
    assert started.stdout == "tiny v2 goes to 10 % of the devices, v1 to the others.\n"
    assert re.search(r"^tiny v1 \(pinned 20\S+\)$", shown.stdout, re.MULTILINE)
    assert re.search(r"^  canary +v2 to 10 % of the devices since 20\S+$", shown.stdout, re.MULTILINE)
    assert re.search(r"^  previous +v2$", shown.stdout, re.MULTILINE)
    assert percent == 50
    assert ended.stdout == "tiny v1 goes to every device again; the canary v2 is ended.\n"
    assert re.search(
        r"given up +v2 with 50 %, from \S+ to \S+: it was rolled back by hand$", shown_after.stdout.rstrip()
    )
    assert "canary  " not in shown_after.stdout


@pytest.mark.parametrize("percent", ["0", "100", "-3"])
def test_a_share_that_is_none_is_the_callers_mistake(models: Path, percent: str) -> None:
    Registry(models).activate("tiny", "v1")

    result = duet_models(models, "activate", "tiny", "v2", f"--canary={percent}")

    assert result.exit_code == 2
    assert "more than 0 and less than 100 percent" in result.stderr
    assert Registry(models).pin("tiny").canary is None


def gateway_state(version: str, canary: dict[str, object] | None = None) -> dict[str, object]:
    return {"gateway": "4f00ba12", "version": version, "canary": canary}


@pytest.mark.parametrize(
    ("gateways", "silent", "code"),
    [(("v1", "v1"), 0, 0), (("v1", "v2"), 0, 1), (("v1",), 1, 1)],
    ids=["all-as-pinned", "one-behind", "one-silent"],
)
def test_status_asks_a_running_server_what_its_gateways_serve(
    models: Path, cloud: FakeCloud, gateways: tuple[str, ...], silent: int, code: int
) -> None:
    registry = Registry(models)
    registry.activate("tiny", "v1")
    registry.start_canary("tiny", "v2", 10)
    tally = {"requests": 9.0, "failures": 1.0}
    canary = {"version": "v2", "percent": 10.0, "since": "now", "counted": tally, "beside": tally}
    cloud.rollout = {
        "model": "tiny",
        "gateways": [gateway_state(version, canary) for version in gateways],
        "silent": silent,
    }

    result = duet_models(models, "status", "tiny", "--url", cloud.url)

    assert result.exit_code == code
    assert [line.split()[3] for line in result.stdout.splitlines() if line.startswith("gateway")] == [
        f"{version}," for version in gateways
    ]
    assert "v2 to 10 %: 1 of 9 requests failed or were late, 1 of 9 beside it" in result.stdout
    assert ("1 more did not answer" in result.stdout) == bool(silent)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_status_of_a_server_that_is_not_there_says_so(models: Path, url: str) -> None:
    result = duet_models(models, "status", "tiny", "--url", url)

    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("duet: Expected")


def test_status_of_a_server_that_refuses_repeats_what_it_said(models: Path, cloud: FakeCloud) -> None:
    cloud.missing = {"code": "unknown_model", "detail": "Expected the name of a published model."}

    result = duet_models(models, "status", "tiny", "--url", cloud.url)

    assert result.exit_code == 1
    assert "it answered 404" in result.stderr
