"""The open loop at little cost: devices that come regardless, ask again, are wrong at times, and see a rollover."""

import signal
import sys

import pytest

from tests.loadtest.generator_runs import SLO, StallingFake, checks_of, latencies_of, start_lean
from tests.loadtest.serving_fake import ServingFake, answer, manifest_bytes
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.slow]

RATE, SECONDS = 60, 5
STEADY = [{"name": "steady", "seconds": SECONDS, "load": 1.0}]


class SheddingFake(ServingFake):
    """Refuses every request once, with 429, and answers it when it comes again."""

    def __init__(self):
        super().__init__()
        self._seen = set()

    def respond(self, asked):
        known = str(asked)
        if known in self._seen:
            self._seen.discard(known)
            return super().respond(asked)
        self._seen.add(known)
        return 429, {"content-type": "application/problem+json", "retry-after": "0"}, b'{"code": "overloaded"}'


class RollingFake(ServingFake):
    """Serves another version from its 150th answer on."""

    def respond(self, asked):
        if len(self.asked) >= 150:
            self.manifest = manifest_bytes("v2")
        return answer(asked["sample"], manifest=self.manifest)


def test_a_stall_shows_for_all_who_came_meanwhile(tmp_path):
    with StallingFake(2.0, 3.0) as cloud:
        run = start_lean(cloud.url, tmp_path / "run", "--rate", str(RATE), "--forgetful", phases=STEADY)
        code, report, output = run.finish()

    assert code == 0, output
    assert report["figures"]["due"] == pytest.approx(RATE * SECONDS, rel=0.3)
    assert len([each for each in latencies_of(report) if each > 100]) > 0.6 * RATE
    assert report["figures"]["p99_ms"] > 800


def test_devices_hold_what_they_got_and_some_requests_are_wrong_and_two_processes_make_one_report(tmp_path):
    with ServingFake() as cloud:
        options = ("--rate", str(RATE), "--processes", "2", "--malformed-share", "0.2", "--oversized-share", "0.02")
        run = start_lean(cloud.url, tmp_path / "run", *options, phases=STEADY, faulty=True)
        code, report, output = run.finish()
        refused = set(cloud.refused)

    assert code == 0, output
    assert report["figures"]["offered_rps"] == pytest.approx(0.78 * RATE, rel=0.35)
    assert report["figures"]["failed_share"] == 0
    assert report["figures"]["mishandled"] == 0
    assert 0.1 < report["figures"]["keep_share"] < 0.9
    assert refused >= {400, 413, 422}
    assert all("in_flight" in second["gauges"] for at_s, second in report["seconds"].items() if int(at_s) < SECONDS - 1)


def test_who_is_shed_asks_again_and_its_time_counts_from_when_it_was_due(tmp_path):
    with SheddingFake() as cloud:
        run = start_lean(cloud.url, tmp_path / "run", "--rate", "30", "--forgetful", phases=STEADY)
        code, report, output = run.finish()

    assert code == 0, output
    # two devices with one and the same request may share the refusals
    assert report["figures"]["shed_share"] < 0.05
    assert report["figures"]["retried_share"] == pytest.approx(1, abs=0.15)
    assert report["figures"]["p50_ms"] > 100
    assert report["figures"]["service_p99_ms"] < report["figures"]["p50_ms"] + 1000


def test_a_version_that_is_rolled_out_meanwhile_is_verified_as_itself(tmp_path):
    with RollingFake() as cloud:
        run = start_lean(
            cloud.url,
            tmp_path / "run",
            *("--rate", str(RATE), "--forgetful"),
            *("--on", f"rollover={sys.executable} -c 'import sys; sys.exit(7)'"),
            phases=[
                {"name": "before", "seconds": 2, "load": 1.0},
                {"name": "after", "seconds": 3, "load": 1.0, "event": "rollover"},
            ],
        )
        code, report, output = run.finish()

    versions = {name for each in report["seconds"].values() for name in each["counts"] if name.startswith("version/")}
    assert len(versions) == 2
    assert report["figures"]["failed_share"] == 0
    # the event's command failed, and that is what the run says
    assert code == 3, output
    assert [event["exit_code"] for event in report["run"]["events"]] == [7]
    assert report["run"]["events"][0]["at_s"] == pytest.approx(2, abs=1)


def test_what_cannot_be_sent_is_dropped_and_a_run_that_is_stopped_says_so(tmp_path):
    with StallingFake(0.0, 30.0) as cloud:
        options = ("--rate", str(RATE), "--stretch", "100", "--max-in-flight", "3", "--forgetful")
        run = start_lean(cloud.url, tmp_path / "run", *options, phases=STEADY)
        wait_until(lambda: len(cloud.asked) >= 3, "three requests arrive")
        run.process.send_signal(signal.SIGTERM)
        code, report, output = run.finish()

    assert code == 3, output
    assert not checks_of(report)["ran_share"]
    assert not checks_of(report)["dropped_share"]


def test_a_generator_without_processor_time_is_no_result(tmp_path):
    with ServingFake() as cloud:
        slo = SLO.replace("cpu_share: {at_most: 0.9}", "cpu_share: {at_most: 0.001}")
        run = start_lean(cloud.url, tmp_path / "run", "--rate", str(RATE), phases=STEADY, slo=slo)
        code, report, output = run.finish()

    assert code == 3, output
    assert "the load generator was the limit" in report["headline"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--model", "films"), "Expected a model that"),
        (("--shape", "none"), "Expected --shape to be one of mine, got none."),
        (("--on", "rollover"), "Expected EVENT=COMMAND"),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(options, told, tmp_path):
    with ServingFake() as cloud:
        code, report, output = start_lean(cloud.url, tmp_path / "run", *options, phases=STEADY).finish()

    assert code == 2
    assert told in output
    assert "Traceback" not in output
    assert report is None
