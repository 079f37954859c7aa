"""The closed loop as a program: its report, several processes, an early end, and what cannot be asked."""

import signal
import subprocess
import sys

import pytest

from loadtest.run import Saturation
from tests.loadtest.generator_runs import ROOT, SLO, QuickRefusal, checks_of, start_saturation
from tests.loadtest.scripted_server import ScriptedServer, message
from tests.loadtest.serving_fake import ServingFake, manifest_bytes
from tests.waiting import wait_until

pytestmark = pytest.mark.long

SHORT = ("--step-s", "2", "--connections", "1", "3")


@pytest.mark.parametrize("processes", [1, 2])
def test_the_report_has_a_point_for_each_number_of_users(processes, tmp_path):
    with ServingFake() as cloud:
        run = start_saturation(cloud.url, tmp_path / "run", *SHORT, "--processes", str(processes))
        code, report, output = run.finish()

    assert code == 0, output
    found = Saturation.read(tmp_path / "run" / "report.json")
    assert [point.load for point in found.points] == [1, 3]
    assert found.capacity_rps > 10
    assert not found.generator_was_limit
    assert report["figures"]["failed_share"] == 0
    assert 0.1 < report["figures"]["keep_share"] < 0.9
    # as many as the server has seen, but for each process's first and what was under way at the end
    sent = sum(second["counts"].get("due", 0) for second in report["seconds"].values())
    assert len(cloud.asked) - 3 - processes <= sent <= len(cloud.asked)


def test_a_generator_without_processor_time_is_no_result(tmp_path):
    with QuickRefusal(answer=message(200, b"x" * 64, b"Duet-Plan: shared\r\n")) as cloud:
        run = start_saturation(
            cloud.url,
            tmp_path / "run",
            *("--step-s", "2", "--connections", "8", "--forgetful"),
            # low enough to be reached where other processes take most of the machine
            slo=SLO.replace("cpu_share: {at_most: 0.9}", "cpu_share: {at_most: 0.05}"),
        )
        code, report, output = run.finish()

    assert code == 3, output
    assert not checks_of(report)["cpu_share"]
    assert "the load generator was the limit" in output


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_stopped_has_a_report_and_does_not_pass(processes, tmp_path):
    with ServingFake() as cloud:
        run = start_saturation(cloud.url, tmp_path / "run", "--step-s", "60", "--processes", str(processes))
        wait_until(lambda: len(cloud.asked) >= 20, "twenty requests arrive")
        run.process.send_signal(signal.SIGTERM)
        code, report, output = run.finish()

    assert code == 3, output
    assert not checks_of(report)["ran_share"]


def test_a_server_that_answers_wrongly_fails_the_run(tmp_path):
    manifest = message(200, manifest_bytes())
    with ScriptedServer(lambda number: [manifest if number < 2 else message(200, b"?" * 64)]) as cloud:
        run = start_saturation(cloud.url, tmp_path / "run", *SHORT, "--forgetful")
        _, report, output = run.finish()

    assert report["figures"]["failed_share"] == 1, output
    assert "Capacity: 0" in output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--model", "films"), "Expected a model that"),
        (("--processes", "2", "--model", "films"), "Expected a model that"),
        (("--connections", "0"), "Expected at least 1"),
        (("--world", "none"), "invalid choice"),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(options, told, tmp_path):
    with ServingFake() as cloud:
        command = [sys.executable, "-m", "loadtest.saturation", "--host", cloud.url, "--report", str(tmp_path / "out")]
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
