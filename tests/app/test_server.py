"""What cannot be served is refused before Ray starts; real starts and stops are in ``tests/integration``."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.server import free_port, start
from app.settings import AppSettings
from duet.protocol.errors import CorruptVersion, UnknownModel
from tests.published_version import write_version


def test_a_repository_without_the_model_is_refused(models: Path, tmp_path: Path) -> None:
    for settings in (AppSettings(models=str(tmp_path)), AppSettings(models=str(models), model="films")):
        with pytest.raises(UnknownModel):
            start(settings, port=0)


def test_a_damaged_active_version_is_refused(tmp_path: Path) -> None:
    write_version(tmp_path).path("card.md").write_text("edited")

    with pytest.raises(CorruptVersion):
        start(AppSettings(models=str(tmp_path)), port=0)


def test_a_port_that_is_taken_is_refused_with_its_number(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(OSError, match=str(port)):
            start(AppSettings(models=str(models)), port=port)


def test_a_chosen_port_is_free_and_not_one_that_the_system_hands_out() -> None:
    port = free_port("127.0.0.1", 0)

    with socket.create_server(("127.0.0.1", port)):
        assert 20_000 <= port < 30_000


def test_asking_for_a_server_does_not_import_ray_before_its_variables_are_set() -> None:

    program = "import sys, app.server; print('ray' in sys.modules)"

    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert process.stdout == "False\n"
