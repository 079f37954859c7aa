"""The load generator itself: it shows what a server does to those who come regardless, and says when it is the limit.

The runs of the first tests go on at the same time: each waits for its cloud more than it computes.
"""

import csv
import re
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.loadtest.generator_runs import (
    SLO,
    QuickRefusal,
    StallingFake,
    checks_of,
    latencies_of,
    start_locust,
    start_saturation,
)
from tests.loadtest.serving_fake import ServingFake
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.slow]

RATE, SECONDS, STALL_S, UNTIL_S = 60, 6, 2.0, 3.0
SLOWLY, HELD_UP_S = 20, 2.5
STEADY = [{"name": "steady", "seconds": SECONDS, "load": 1.0}]
WITH_EVENT = [
    {"name": "before", "seconds": 1, "load": 1.0},
    {"name": "after", "seconds": 2, "load": 1.0, "event": "rollover"},
]
COUNTED = ("due", "dropped", "outcome/in-time", "outcome/late")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs by name, finished: exit code, report and output."""
    folder = tmp_path_factory.mktemp("runs")
    with ExitStack() as clouds:
        cloud = lambda fake: clouds.enter_context(fake).url  # noqa: E731
        stalling = lambda: cloud(StallingFake(STALL_S, UNTIL_S))  # noqa: E731
        healthy, watched = clouds.enter_context(ServingFake()), clouds.enter_context(ServingFake())
        rate = ("--rate", str(RATE))
        fail = f"rollover={sys.executable} -c 'import sys; sys.exit(7)'"
        begun = {
            "open": start_locust(stalling(), folder / "open", "open_loop.py", *rate, phases=STEADY),
            "closed": start_saturation(
                stalling(), folder / "closed", "--connections", "1", "--step-s", str(SECONDS - 2), "--forgetful"
            ),
            "full": start_locust(
                cloud(StallingFake(0.0, 3.0)),
                folder / "full",
                "open_loop.py",
                *rate,
                "--max-in-flight",
                "3",
                phases=STEADY,
            ),
            "held up": start_locust(
                watched.url,
                folder / "held-up",
                "open_loop.py",
                *("--rate", str(SLOWLY)),
                phases=STEADY,
                slo=SLO.replace("lag_p99_ms: {at_most: 2000}", "lag_p99_ms: {at_most: 1500}"),
            ),
            "stopped": start_locust(
                healthy.url, folder / "stopped", "open_loop.py", *rate, "--stretch", "100", phases=STEADY
            ),
            "event": start_locust(
                healthy.url,
                folder / "event",
                "open_loop.py",
                *rate,
                "--on",
                fail,
                phases=[
                    {"name": "a", "seconds": 1, "load": 1.0},
                    {"name": "b", "seconds": 2, "load": 1.0, "event": "rollover"},
                ],
                faulty=True,
            ),
        }
        wait_until(lambda: healthy.asked and len(watched.asked) >= SLOWLY, "both servers are asked")
        begun["held up"].process.send_signal(signal.SIGSTOP)
        threading.Event().wait(HELD_UP_S)
        begun["held up"].process.send_signal(signal.SIGCONT)
        ended = {name: run.finish() for name, run in begun.items() if name != "stopped"}
        begun["stopped"].process.send_signal(signal.SIGTERM)
        return ended | {"stopped": begun["stopped"].finish()}


def test_a_stall_shows_for_all_who_came_meanwhile(runs):
    code, report, output = runs["open"]

    assert code == 0, output
    stalled = RATE * (UNTIL_S - STALL_S)
    slow = [each for each in latencies_of(report) if each > 100]
    assert report["figures"]["due"] == pytest.approx(RATE * SECONDS, rel=0.3)
    # those who came in the first 0.9 of the second waited for more than 0.1 of it
    assert len(slow) > 0.6 * stalled
    assert report["figures"]["p99_ms"] > 800


def test_a_closed_loop_hides_the_same_stall(runs):
    code, report, output = runs["closed"]

    assert code == 0, output
    # the only user waited once, and nobody else came; a few more where the machine itself stalls
    assert 1 <= sum(each > 800 for each in latencies_of(report)) <= 5


def test_what_a_generator_that_was_held_up_sends_late_counts_from_when_it_was_due(runs):
    code, report, output = runs["held up"]

    assert code == 3, output
    assert not checks_of(report)["lag_p99_ms"]
    # the server answered at once, and devices waited for seconds all the same
    assert report["figures"]["p99_ms"] > 800 * HELD_UP_S


def test_what_cannot_be_sent_is_counted_and_fails_the_run(runs):
    code, report, output = runs["full"]

    assert code == 3, output
    assert not checks_of(report)["dropped_share"]
    assert report["figures"]["dropped_share"] > 0.1
    counts = [second["counts"] for second in report["seconds"].values()]
    total = {
        name: sum(each.get(name, 0) for each in counts)
        for name in ("due", "dropped", "outcome/in-time", "outcome/late")
    }
    assert total["due"] == total["dropped"] + total["outcome/in-time"] + total["outcome/late"]


def test_a_run_that_is_stopped_has_a_report_and_does_not_pass(runs):
    code, report, output = runs["stopped"]

    assert code == 3, output
    assert not checks_of(report)["ran_share"]
    assert report["figures"]["due"] > 0


def test_an_event_whose_command_fails_makes_the_run_say_nothing(runs):
    code, report, output = runs["event"]

    assert code == 3, output
    assert [event["exit_code"] for event in report["run"]["events"]] == [7]
    assert not checks_of(report)["event rollover"]


def test_the_page_needs_nothing_from_outside_and_the_table_has_every_second(runs):
    _, report, output = runs["open"]
    (page,) = (line.removeprefix("Report: ") for line in output.splitlines() if line.startswith("Report: "))
    html = Path(page).read_text()

    rows = list(csv.DictReader(Path(page).with_name("seconds.csv").read_text().splitlines()))

    assert html.count("<svg") >= 6
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!#)[^"')\s]*//""", html.replace("xlink:href", "href"))
    assert sum(int(row["due"]) for row in rows) == report["figures"]["due"]


def test_a_generator_that_is_the_limit_says_so_and_fails(tmp_path):
    with QuickRefusal() as cloud:
        run = start_locust(
            cloud.url,
            tmp_path / "limit",
            "open_loop.py",
            *("--rate", "2500", "--retries", "0"),
            phases=[{"name": "flat out", "seconds": 3, "load": 1.0}],
            # low enough to be reached where other processes take most of the machine
            slo=SLO.replace("cpu_share: {at_most: 0.9}", "cpu_share: {at_most: 0.15}"),
        )
        code, report, output = run.finish()

    assert code == 3, output
    assert "the load generator was the limit" in report["headline"]
    assert not checks_of(report)["cpu_share"]
    assert "The load generator takes" in output


def test_the_seconds_of_two_workers_make_one_report(tmp_path):
    with ServingFake() as cloud:
        run = start_locust(
            cloud.url,
            tmp_path / "two",
            "open_loop.py",
            *("--rate", "40", "--processes", "2", "--malformed-share", "0.2", "--oversized-share", "0.02"),
            phases=[{"name": "steady", "seconds": 4, "load": 1.0}],
            faulty=True,
        )
        code, report, output = run.finish(120)
        names = {asked["device"].split("-")[1] for asked in cloud.asked}
        refused = set(cloud.refused)

    assert code == 0, output
    assert names == {"0", "1"}
    assert report["figures"]["offered_rps"] == pytest.approx(40 * 0.78, rel=0.35)
    assert report["figures"]["failed_share"] == 0
    assert refused >= {400, 422}
