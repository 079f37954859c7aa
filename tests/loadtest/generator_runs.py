"""Load generators in processes of their own, with a report; and a cloud that stalls by script."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.loadtest.serving_fake import ServingFake, manifest_bytes

ROOT = Path(__file__).resolve().parents[2]

SLO = """
generator:
  dropped_share: {at_most: 0.001}
  cpu_share: {at_most: 0.9}
  lag_p99_ms: {at_most: 2000}
  ran_share: {at_least: 1}
default: {failed_share: {at_most: 0}, mishandled: {at_most: 0}}
"""
"""Without milliseconds of the server, and patient with a generator on a machine that does other things."""

REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


class StallingFake(ServingFake):
    """Answers nobody between ``stall_s`` and ``until_s`` after the first request for parameters; then all at once."""

    def __init__(self, stall_s, until_s):
        super().__init__()
        self._stall_s, self._until_s = stall_s, until_s
        self._began_s, self._lock = None, threading.Lock()

    def respond(self, asked):
        with self._lock:
            self._began_s = self._began_s or time.monotonic()
        now_s = time.monotonic() - self._began_s
        if self._stall_s <= now_s < self._until_s:
            threading.Event().wait(self._until_s - now_s)
        return super().respond(asked)


class QuickRefusal(threading.Thread):
    """Serves a manifest and answers everything else at once, with 503 unless told otherwise.

    Used as a context manager; ``url`` is where it listens.
    """

    def __init__(self, answer=REFUSAL):
        super().__init__()
        self._answer = answer
        manifest = manifest_bytes()
        self._manifest = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(manifest) + manifest
        self._loop, self._listens = asyncio.new_event_loop(), threading.Event()
        self.url = None

    def run(self):
        self._loop.run_until_complete(self._listen())
        self._loop.run_forever()
        self._server.close()
        self._loop.close()

    async def _listen(self):
        owner = self

        class Connection(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(owner._manifest if data.startswith(b"GET") else owner._answer)

        self._server = await self._loop.create_server(Connection, "127.0.0.1", 0, backlog=2000)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._listens.set()

    def __enter__(self):
        self.start()
        assert self._listens.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join(10)


@dataclass
class GeneratorRun:
    """One process and what it wrote."""

    process: subprocess.Popen
    folder: Path

    def finish(self, seconds=60):
        """Wait for the end; return exit code, report and output."""
        output, _ = self.process.communicate(timeout=seconds)
        report = self.folder / "report.json"
        return self.process.returncode, json.loads(report.read_text()) if report.is_file() else None, output


def start_locust(url, folder, file, *options, phases=None, slo=SLO, faulty=False):
    """Start Locust on a shape whose name, if there is one, is ``mine`` and which has these phases."""
    line = ["locust", "-f", f"loadtest/{file}", "--headless", "--only-summary", "--histories", "50"]
    return _start(line, url, folder, options, phases, slo, faulty=faulty)


def start_lean(url, folder, *options, phases, slo=SLO, faulty=False):
    """Start the lean open loop on a shape called ``mine`` with these phases."""
    return _start(["loadtest.lean_open_loop"], url, folder, options, phases, slo, faulty=faulty)


def start_saturation(url, folder, *options, slo=SLO):
    """Start a closed loop of ever more users."""
    return _start(["loadtest.saturation"], url, folder, options, None, slo, faulty=True)


def _start(program, url, folder, options, phases, slo, *, faulty):
    folder.mkdir(parents=True)
    (folder / "slo.yaml").write_text(slo)
    command = [sys.executable, "-m", *program, "--host", url, "--world", "tiny", "--mix", "home"]
    command += ["--server-share-ms", "500", "--report", str(folder), "--slo", str(folder / "slo.yaml")]
    command += [] if faulty else ["--malformed-share", "0", "--oversized-share", "0"]
    if phases is not None:
        (folder / "shapes.yaml").write_text(json.dumps({"mine": {"about": "A test.", "phases": phases}}))
        command += ["--shapes", str(folder / "shapes.yaml"), "--shape", "mine"]
    process = subprocess.Popen(
        [*command, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return GeneratorRun(process, folder)


def checks_of(report):
    """Whether each limit was kept, by figure."""
    return {row["figure"]: row["holds"] for row in report["checks"]}


def latencies_of(report):
    """Every latency in ms, from the buckets of all seconds, ascending."""
    return sorted(
        int(bucket) / 10
        for second in report["seconds"].values()
        for bucket, count in second["histograms"].get("latency", {}).items()
        for _ in range(count)
    )
