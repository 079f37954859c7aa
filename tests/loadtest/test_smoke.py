"""The smoke profile: a minute of devices against a server of its own, for CI to pass; and how a run is stopped."""

import json
import os
import signal
import subprocess

import psutil
import pytest

from tests.integration.background_server import duet
from tests.loadtest.serving_fake import ServingFake
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

TINY = ("--model", "tiny", "--world", "tiny")


@pytest.mark.serve
@pytest.mark.alone
def test_a_minute_of_devices_against_the_service_passes_its_objectives(tiny_version, tmp_path):
    models = tiny_version.folder.parents[1]
    command = duet("loadtest", "smoke", *TINY, "--models", str(models), "--rate", "20", "--out", str(tmp_path))

    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300, env=_environment()
    )

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "smoke" / "report.json").read_text())
    assert report["figures"]["due"] > 300
    assert report["figures"]["ran_share"] == 1
    seconds = report["seconds"].values()
    counts = {name for second in seconds for name in second["counts"]}
    assert {"plan/keep", "faulty/refused"} <= counts
    assert any(name.startswith(("plan/factors", "plan/full")) for name in counts)
    assert "faulty/mishandled" not in counts
    assert any("replicas/Gateway" in second["gauges"] for second in seconds)
    assert (tmp_path / "smoke" / "report.html").read_text().count("<svg") >= 7
    assert "Stopped." in (tmp_path / "serve.log").read_text()


def test_ctrl_c_ends_all_that_was_started_and_leaves_a_report(tmp_path):
    with ServingFake() as cloud:
        cloud.models = ("tiny",)
        options = ("--url", cloud.url, "--rate", "20", "--out", str(tmp_path))
        running = subprocess.Popen(
            duet("loadtest", "steady", *TINY, *options),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(),
        )
        wait_until(lambda: len(cloud.asked) >= 20 or running.poll() is not None, "twenty requests arrive")
        started = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=60)

    assert running.returncode == 130, output
    assert started
    assert not [process for process in started if process.is_running()]
    report = json.loads((tmp_path / "steady" / "report.json").read_text())
    assert report["figures"]["ran_share"] < 1
    assert report["exit_code"] == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("nonsense",), "Expected one of steady, step"),
        (("steady", "--url", "http://127.0.0.1:9", "--rate", "5"), "Expected a manifest from http://127.0.0.1:9"),
    ],
)
def test_a_mistake_is_a_sentence(options, told, tmp_path):
    command = duet("loadtest", *options, "--out", str(tmp_path / "out"))

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode in (1, 2)
    assert told in " ".join((done.stdout + done.stderr).replace("│", " ").split())
    assert "Traceback" not in done.stderr


def _environment():
    # what this process has set for a server of its own is not in an operator's shell
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
