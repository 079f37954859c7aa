"""``duet top`` fits a terminal, prints one snapshot for scripts, leaves on Ctrl-C, and says when nobody listens."""

import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from app.commands import app
from app.commands.top.numbers import Numbers, numbers_of
from app.commands.top.scrape import Snapshot, parse
from app.commands.top.view import view
from tests.app.commands.top.exposition import Replica

ROOT = Path(__file__).resolve().parents[4]
URL = "http://127.0.0.1:8000"


class Server:
    """Exports a replica that answers some requests between two scrapes."""

    def __init__(self) -> None:
        self.replica = Replica(started_s=time.time() - 100)
        self.scrapes = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"metrics": [f"{server.url}/metrics"]}).encode()
                if self.path == "/metrics":
                    server.scrapes += 1
                    server.replica.answer(10)
                    body = server.replica.text(time.time()).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.stop()


def drawn(numbers: Numbers, *, width: int = 80, **options: object) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(view(numbers, url=URL, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.fixture
def busy() -> Numbers:
    replica = Replica()
    replica.answer(100)
    replica.answer(20, reason="overloaded")
    replica.answer(5, server_ms=70.0)
    return numbers_of(Snapshot(), parse([replica.text(1010.0)]), now_s=1010.0)


def test_everything_fits_into_80_columns_and_nothing_is_cut(busy: Numbers) -> None:
    lines = drawn(busy, history=[busy] * 30)

    assert max(len(line) for line in lines) <= 80
    assert not [line for line in lines if "…" in line]


def test_the_most_important_numbers_fit_into_24_lines(busy: Numbers) -> None:
    text = "\n".join(drawn(busy)[:24])

    facts = ["12.5/s", "10.0/s (80.0%)", "factors-r4-int8", "overloaded", "demo v1", "Gateway 1", "queue", "generate"]
    assert not [fact for fact in facts if fact not in text]


def test_a_problem_stands_at_the_top(busy: Numbers) -> None:
    assert "the server is gone" in "\n".join(drawn(busy, problem="the server is gone")[:3])


def test_an_idle_server_shows_no_numbers_that_it_does_not_have() -> None:
    lines = drawn(numbers_of(Snapshot(), Snapshot(), now_s=1.0))

    assert [line.split() for line in lines if line.startswith("server")] == [["server", "–", "–", "–"]]
    assert not [line for line in lines if "nan" in line.lower() or "None" in line]


def test_once_prints_a_snapshot_and_ends(server: Server) -> None:
    result = CliRunner().invoke(app, ["top", "--url", server.url, "--once"])

    assert result.exit_code == 0, result.stderr
    assert "factors-r4-int8" in result.stdout
    assert "last 1 min 40 s" in result.stdout
    assert server.scrapes == 1


def test_once_as_json_is_one_document(server: Server) -> None:
    result = CliRunner().invoke(app, ["top", "--url", server.url, "--once", "--json"])

    document = json.loads(result.stdout)
    assert document["plans"] == {"factors-r4-int8": pytest.approx(0.1, rel=0.05)}
    assert set(document["stages"]) == {"plan", "queue", "encode", "generate", "compose", "hops"}


def _interruptible() -> None:
    """Undo what a shell does to a test run in its background: it ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_where_nobody_listens_one_line_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = CliRunner().invoke(app, ["top", "--url", f"http://127.0.0.1:{port}", "--once"])

    assert result.exit_code == 1
    assert result.stderr.startswith(f"duet: Expected an answer from http://127.0.0.1:{port}/metadata, got none")
    assert "duet serve" in result.stderr
    assert result.stderr.count("\n") == 1


def test_json_goes_on_with_a_line_each_time_until_ctrl_c_and_the_end_is_clean(server: Server) -> None:
    program = ["-c", "from app.commands import main; main()", "top", "--url", server.url, "--json", "--interval", "0.5"]
    process = subprocess.Popen(
        [sys.executable, *program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_interruptible,
    )
    assert process.stdout is not None
    windows = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)

    assert (process.returncode, stderr) == (0, "")
    assert windows[0]["window_s"] > 90
    assert 0 < windows[2]["window_s"] < 90
    assert windows[2]["requests"] > 0


def test_in_a_terminal_it_goes_on_until_ctrl_c_and_gives_the_screen_back(server: Server) -> None:
    program = ["-c", "from app.commands import main; main()", "top", "--url", server.url, "--interval", "0.5"]
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        [sys.executable, *program],
        cwd=ROOT,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=_interruptible,
    )
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 60
    while shown.count(b"goodput") < 3 and time.monotonic() < deadline:
        shown += os.read(ours, 65_536)
    process.send_signal(signal.SIGINT)
    with suppress(OSError):  # how a terminal ends
        while piece := os.read(ours, 65_536):
            shown += piece
    os.close(ours)

    assert process.wait(30) == 0
    assert b"Traceback" not in shown
    assert shown.count(b"goodput") >= 3
    assert shown.rindex(b"\x1b[?1049l") > shown.rindex(b"\x1b[?1049h")
