"""What cannot be served is refused before Ray starts; real starts and stops are in ``tests/integration``."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.commands import exit_code_of
from app.ports import free_port
from app.server import check_accelerator, start
from app.settings import AppSettings
from duet.protocol.errors import CorruptVersion, InvalidRequest, UnknownModel
from tests.published_version import write_version


def test_a_repository_without_the_model_is_refused(models: Path) -> None:
    with pytest.raises(UnknownModel):
        start(AppSettings(models=str(models), model="films"), port=0)


@pytest.mark.parametrize("folder", ["", "nowhere"], ids=["empty", "not-there"])
def test_a_folder_without_models_is_named_with_the_command_that_fills_it(tmp_path: Path, folder: str) -> None:
    with pytest.raises(FileNotFoundError) as refusal:
        start(AppSettings(models=str(tmp_path / folder)), port=0)

    assert f"in {tmp_path / folder}," in str(refusal.value)
    assert f"duet publish RUN --models {tmp_path / folder}" in str(refusal.value)


def test_a_damaged_active_version_is_refused(tmp_path: Path) -> None:
    write_version(tmp_path).path("model_card.md").write_text("edited")

    with pytest.raises(CorruptVersion):
        start(AppSettings(models=str(tmp_path)), port=0)


def test_a_port_that_is_taken_is_refused_with_its_number(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(OSError, match=str(port)):
            start(AppSettings(models=str(models)), port=port)


@pytest.mark.parametrize("port", [0, 8000], ids=["any-port", "a-port"])
@pytest.mark.parametrize("host", ["203.0.113.7", "no such name", "", " ", "::1", "::", "[::1]", "a..b"])
def test_what_is_no_address_of_this_machine_is_refused_as_an_option(models: Path, host: str, port: int) -> None:
    with pytest.raises(InvalidRequest, match="address of this machine") as refusal:
        start(AppSettings(models=str(models)), host=host, port=port)

    assert repr(host) in str(refusal.value)
    assert "Errno" not in str(refusal.value)
    assert exit_code_of(refusal.value) == 2


def test_a_name_of_this_machine_is_an_address_of_it() -> None:
    assert free_port("localhost", 0)


def test_an_accelerator_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    check_accelerator("cpu")

    with pytest.raises(ValueError, match="'cuda:1'"):
        check_accelerator("cuda:1")


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
