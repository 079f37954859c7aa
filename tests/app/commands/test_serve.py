"""``duet serve``: what it refuses at once, and a server of its own from start to Ctrl-C."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.commands import app
from app.ports import free_port

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "films"], "'films'"),
        (["--placement", "everywhere"], "everywhere"),
        (["--port", "70000"], "65535"),
        (["--ingress", "nginx"], "nginx"),
        (["--accelerator", "wat"], "wat"),
        (["--accelerator", "cuda"], "CUDA accelerator"),
        (["--log-format", "xml"], "xml"),
        (["--trace-file", "/no/such/folder/traces.jsonl"], "folder"),
        (["--trace-ratio", "2"], "trace-ratio"),
    ],
    ids=[
        *("model", "placement", "port", "ingress", "accelerator", "no-such-accelerator"),
        *("log-format", "trace-file", "trace-ratio"),
    ],
)
def test_what_cannot_be_served_is_named_before_anything_starts(
    models: Path, arguments: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    result = CliRunner().invoke(app, ["serve", "--models", str(models), *arguments])

    assert result.exit_code == 2
    assert named in result.stderr


def test_an_empty_repository_says_how_to_fill_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", "--models", str(tmp_path)])

    assert result.exit_code == 2
    assert f"duet publish RUN --models {tmp_path}" in result.stderr


def test_a_file_in_the_place_of_the_folder_is_called_a_file(tmp_path: Path) -> None:
    (tmp_path / "my-log.csv").write_text("user,item")

    result = CliRunner().invoke(app, ["serve", "--models", str(tmp_path / "my-log.csv")])

    assert result.exit_code == 2
    assert "got the file" in " ".join(result.stderr.replace("│", " ").split())
    assert "no such folder" not in result.stderr


def test_a_damaged_version_is_not_served(models: Path) -> None:
    (models / "tiny" / "v2" / "model_card.md").unlink()

    result = CliRunner().invoke(app, ["serve", "--models", str(models)])

    assert result.exit_code == 2
    assert "model_card.md" in result.stderr


def test_a_port_that_is_taken_is_one_line(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        result = CliRunner().invoke(app, ["serve", "--models", str(models), "--port", port])

    assert result.exit_code == 1
    assert port in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Errno" not in result.stderr


def told_to_end_until_it_has(server: subprocess.Popen[str]) -> tuple[str, str]:
    """Send SIGTERM again and again while the server stops; return what it wrote."""
    deadline = time.monotonic() + 60
    while True:
        server.send_signal(signal.SIGTERM)
        try:
            return server.communicate(timeout=0.3)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                server.kill()
                raise


@pytest.mark.serve
def test_it_says_where_it_listens_answers_there_and_ends_whole_when_it_is_told_to_twice(models: Path) -> None:
    program = ["-c", "from app.commands import main; main()", "serve", "--models", str(models), "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, *program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        listening = next((line for line in lines if line.startswith("Listening on ")), "")
        logs = Path(listening.rstrip().rsplit("logs in ", 1)[1])
        url = listening.removeprefix("Listening on ").split(" ")[0]

        answer = CliRunner().invoke(app, ["generate", "--url", url, "--model", "tiny", "--sample", "101,103"])

        assert answer.exit_code == 0, answer.stderr
        assert "verified" in answer.stdout
        assert next(lines) == f"Try: duet device --url {url} --model tiny --sample 101,102,103\n"
        assert next(lines) == f"Watch: duet top --url {url}\n"
        assert "version      v2" in answer.stdout
        assert any("served at version v2" in file.read_text() for file in logs.glob("worker-*.err"))
    finally:
        server.send_signal(signal.SIGINT)
        stdout, stderr = told_to_end_until_it_has(server)
    assert server.returncode == 0, stderr
    assert stdout.endswith("Stopped.\n")
    assert "Traceback" not in stderr
    assert free_port("127.0.0.1", int(url.rsplit(":", 1)[1]))
