"""Commands that talk to a server show it a key and believe what is signed; `duet serve` refuses unusable files."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.commands import app
from duet.protocol.signing import SigningKey, write_signing_keys
from tests.app.commands.conftest import FakeCloud
from tests.self_signed import write_certificate

OURS, THEIRS = SigningKey("ours", bytes(32)), SigningKey("ours", bytes(range(32)))


@pytest.fixture
def signing_keys(tmp_path: Path) -> Path:
    file = tmp_path / "signing-keys.jsonl"
    write_signing_keys(file, [OURS])
    return file


def ask(cloud: FakeCloud, command: str, *arguments: str, **variables: str) -> Result:
    options = ["--url", cloud.url, "--model", "tiny", "--sample", "101,103", *arguments]
    return CliRunner().invoke(app, [command, *options], env=variables)


@pytest.mark.parametrize("is_variable", [True, False], ids=["variable", "option"])
@pytest.mark.parametrize("command", ["generate", "device"])
def test_the_key_goes_with_every_request(cloud: FakeCloud, tmp_path: Path, command: str, is_variable: bool) -> None:
    cache = ["--cache", str(tmp_path)] if command == "device" else []
    given = {"DUET_API_KEY": "duet_1_2"} if is_variable else {}

    result = ask(cloud, command, *cache, *([] if is_variable else ["--api-key", "duet_1_2"]), **given)

    assert result.exit_code == 0, result.stderr
    assert cloud.authorizations == {"Bearer duet_1_2"}


def test_what_is_signed_is_said_to_be(cloud: FakeCloud, signing_keys: Path) -> None:
    cloud.signing_key = OURS

    result = ask(cloud, "generate", DUET_SIGNING_KEY=str(signing_keys))

    assert result.exit_code == 0, result.stderr
    assert "verified     signature, checksum" in result.stdout
    assert "signature" not in ask(cloud, "generate").stdout


@pytest.mark.parametrize("key", [None, THEIRS], ids=["unsigned", "another-key"])
@pytest.mark.parametrize("command", ["generate", "device"])
def test_what_is_not_signed_with_our_key_is_refused(
    cloud: FakeCloud, signing_keys: Path, tmp_path: Path, command: str, key: SigningKey | None
) -> None:
    cloud.signing_key = key
    cache = ["--cache", str(tmp_path / "cache")] if command == "device" else []

    result = ask(cloud, command, *cache, "--signing-key", str(signing_keys))

    assert result.exit_code == 1
    assert result.stderr.startswith("duet: Expected an answer that is signed with a key of this device")
    assert "Traceback" not in result.stderr


def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(cloud: FakeCloud) -> None:
    result = ask(cloud, "generate", "--api-key", "two words")

    assert result.exit_code == 2
    assert "two words" not in result.stderr
    assert not cloud.paths


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tls-cert", "cert.pem"], "both --tls-cert and --tls-key"),
        (["--tls-cert", "nowhere.pem", "--tls-key", "key.pem"], "nowhere.pem"),
        (["--tls-cert", "key.pem", "--tls-key", "key.pem"], "key.pem"),
        (["--api-keys", "nowhere.jsonl"], "Make it with `duet keys`"),
        (["--api-keys", "empty.jsonl"], "at least one API key"),
        (["--api-keys", "key.pem"], "line 1: expected a key as JSON"),
        (["--signing-keys", "empty.jsonl"], "at least one signing key"),
    ],
)
def test_files_that_cannot_be_used_are_named_before_anything_starts(
    models: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    write_certificate(models.parent)
    monkeypatch.chdir(models.parent)
    Path("empty.jsonl").touch()

    result = CliRunner().invoke(app, ["serve", "--models", str(models), *arguments])

    assert result.exit_code == 2
    assert named in " ".join(result.stderr.replace("│", " ").split())
    assert "BEGIN" not in result.stderr
