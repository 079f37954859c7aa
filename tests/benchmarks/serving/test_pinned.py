"""A server that a benchmark starts is ended with all that it has started, however the block around it ends."""

import json
import urllib.request
from pathlib import Path

import psutil
import pytest

from benchmarks.serving.pinned import pinned

# answers with its own process and a child's, which wants to stay: it ignores every request to end and has a session
SERVER = """
import http.server, json, os, subprocess, sys
stay = "import signal\\nfor each in (2, 15): signal.signal(each, signal.SIG_IGN)\\nwhile True: signal.pause()"
child = subprocess.Popen([sys.executable, "-c", stay], start_new_session=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        told = {"pids": [os.getpid(), child.pid], "cores": sorted(os.sched_getaffinity(0)), "told": os.environ["TOLD"]}
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *arguments):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def asked(url: str) -> dict[str, object]:
    with urllib.request.urlopen(f"{url}/state", timeout=10) as answer:
        return json.loads(answer.read())


def test_nothing_is_left_of_a_server_and_its_children() -> None:
    with pinned(["-c", SERVER], cores="0", variables={"TOLD": "this"}) as url:
        state = asked(url)

    assert (state["cores"], state["told"]) == ([0], "this")
    assert not [pid for pid in state["pids"] if psutil.pid_exists(pid)]


def test_an_interrupted_block_leaves_nothing_either() -> None:
    pids: list[int] = []

    def interrupted() -> None:
        with pinned(["-c", SERVER], cores="0", variables={"TOLD": ""}) as url:
            pids.extend(asked(url)["pids"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 2
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_a_server_that_ends_too_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="no such luck"),
        pinned(["-c", "import sys; sys.exit('no such luck')"], cores="0"),
    ):
        raise AssertionError("a server that is not there was yielded")
