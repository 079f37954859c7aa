"""There is a token where Ray looks for one, and nobody else reads it; what the operator has named is left alone."""

import stat
from pathlib import Path

import pytest

from app.ray_token import prepare_token


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def test_a_token_is_drawn_once_and_only_its_owner_reads_it(token: Path) -> None:
    prepare_token({})
    first = token.read_text()
    prepare_token({})

    assert len(first) == 64
    assert token.read_text() == first
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_the_token_that_ray_has_made_is_closed_to_others(token: Path) -> None:
    token.parent.mkdir()
    token.write_text("made by Ray")
    token.chmod(0o644)

    prepare_token({})

    assert token.read_text() == "made by Ray"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"])
def test_what_the_operator_has_named_is_left_alone(token: Path, name: str) -> None:
    prepare_token({name: "disabled"})

    assert not token.exists()
