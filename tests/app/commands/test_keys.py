"""``duet keys``: a key is shown once and works, a revoked one does not, and signing keys change places."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.commands import app
from app.keys import Keyring, read_keys
from duet.protocol.access_errors import Unauthorized
from duet.protocol.signing import read_signing_keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def keys(file: Path, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", command, *arguments, "--file", str(file)])


def test_a_key_is_shown_once_alone_on_stdout_and_gets_in(file: Path) -> None:
    result = keys(file, "create", "--label", "shop app", "--rate", "5", "--burst", "9")

    assert result.exit_code == 0, result.stderr
    text = result.stdout.strip()
    Keyring(file).admit(f"Bearer {text}".encode())
    (key,) = read_keys(file).values()
    assert (key.label, key.rate_per_s, key.burst, key.expires) == ("shop app", 5, 9, None)
    assert text.split("_", 2)[2] not in result.stderr + file.read_text()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:00:00Z", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31T12:00:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_expiry_is_a_date_or_a_moment(file: Path, text: str, moment: datetime) -> None:
    keys(file, "create", "--expires", text)

    assert [key.expires for key in read_keys(file).values()] == [moment]


def test_expiry_may_be_a_number_of_days(file: Path) -> None:
    keys(file, "create", "--expires", "90d")

    (key,) = read_keys(file).values()
    assert key.expires is not None
    assert abs(key.expires - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=1)


def test_a_revoked_key_is_gone_and_the_others_stay(file: Path) -> None:
    first, second = (keys(file, "create").stdout.strip() for _ in range(2))

    result = keys(file, "revoke", first.split("_")[1])

    assert result.exit_code == 0
    Keyring(file).admit(f"Bearer {second}".encode())
    with pytest.raises(Unauthorized):
        Keyring(file).admit(f"Bearer {first}".encode())


def test_expired_keys_are_listed_as_such_and_go_together(file: Path) -> None:
    keys(file, "create", "--label", "old", "--expires", "2020-01-01")
    keys(file, "create", "--label", "young")

    listed = keys(file, "list").stdout
    result = keys(file, "revoke", "expired")

    lines = {line.split()[1]: line for line in listed.splitlines()[1:]}
    assert lines["old"].rstrip().endswith("expired")
    assert "expired" not in lines["young"]
    assert "1 left" in result.stdout
    assert [key.label for key in read_keys(file).values()] == ["young"]


def test_keys_that_are_made_at_once_are_all_kept(file: Path) -> None:
    def create() -> None:
        from app.commands.keys import create as create_one

        create_one(file=file)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(read_keys(file)) == 8


def test_signing_keys_are_added_behind_and_chosen_by_name(file: Path) -> None:
    keys(file, "signing", "2026-11")
    added = keys(file, "signing", "2026-12")
    order = [key.id for key in read_signing_keys(file)]
    chosen = keys(file, "sign-with", "2026-12")

    assert "2026-11 signs" in added.stdout
    assert "2026-12 signs" in chosen.stdout
    assert (order, [key.id for key in read_signing_keys(file)]) == (["2026-11", "2026-12"], ["2026-12", "2026-11"])
    assert keys(file, "signing", "2027-01", "--first").stdout.endswith("2027-01 signs.\n")


def test_an_id_that_the_file_lacks_is_named_with_those_it_has(file: Path) -> None:
    name = keys(file, "create").stdout.split("_")[1]
    before = file.read_text()

    result = keys(file, "revoke", "nobody")

    assert result.exit_code == 2
    assert name in result.stderr
    assert "'nobody'" in result.stderr
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        ("create", ["--rate", "0"], "rate_per_s"),
        ("create", ["--rate", "nan"], "rate_per_s"),
        ("create", ["--burst", "3"], "burst"),
        ("create", ["--label", "x" * 65], "label"),
        ("create", ["--expires", "soon"], "'soon'"),
        ("create", ["--expires", "9999999999d"], "90d"),
        ("revoke", ["nobody"], "Expected a file of keys at"),
        ("list", [], "Expected a file of keys at"),
        ("signing", ["Ü"], "lower-case"),
        ("sign-with", ["nobody"], "Expected a file of keys at"),
    ],
)
def test_what_cannot_be_done_is_named_and_changes_nothing(
    file: Path, command: str, arguments: list[str], named: str
) -> None:
    result = keys(file, command, *arguments)

    assert result.exit_code == 2
    assert named in result.stderr
    assert not file.exists()
