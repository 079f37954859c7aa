"""What is said of killed parts follows from the requests; a load generator that fails is no success."""

import pytest

from benchmarks.serving.faults import loaded, summarize
from benchmarks.serving.open_loop import OpenLoop, Reply
from benchmarks.serving.replica_deaths import planned_kills


def load(*replies: Reply, dropped: int = 0) -> OpenLoop:
    return OpenLoop("http://127.0.0.1:9", [b"{}"], 50.0, lambda _: 20.0, replies=list(replies), dropped=dropped)


GOOD = [Reply(0.0, 10.0, "in-time", 200)] * 999
FAILED, AGAIN = Reply(0.0, 99.0, "failed", 503, retried=True), Reply(0.0, 30.0, "in-time", 200, retried=True)


def test_requests_and_recoveries_are_counted() -> None:
    result = summarize(load(*GOOD[:98], AGAIN, FAILED), "replicas", kills=3, recoveries_s=[1.0, 2.5])

    assert (result.requests, result.success, result.first_try) == (100, 0.99, 0.98)
    assert (result.kills, result.recoveries, result.slowest_recovery_s) == (3, 2, 2.5)
    assert result.statuses == "200:99 503:1"


@pytest.mark.parametrize(
    ("replies", "dropped", "kills", "recoveries_s", "failing"),
    [
        ([*GOOD, FAILED], 0, 15, [1.0] * 15, []),
        ([*GOOD[:900], FAILED], 0, 15, [1.0] * 15, ["success with one retry"]),
        (GOOD, 0, 15, [1.0] * 14, ["recoveries of these"]),
        (GOOD, 1, 15, [1.0] * 15, ["requests that the generator could not send"]),
        ([], 0, 15, [1.0] * 15, ["success with one retry"]),
        (GOOD, 0, 0, [], ["nodes killed"]),
        (GOOD, 0, 14, [1.0] * 14, ["nodes killed"]),
    ],
)
def test_every_claim_can_fail(replies, dropped, kills, recoveries_s, failing) -> None:
    result = summarize(load(*replies, dropped=dropped), "nodes", kills=kills, recoveries_s=recoveries_s)

    assert [claim.what for claim in result.claims(kills=15) if not claim.holds] == failing


def test_a_run_that_was_to_kill_nothing_shows_nothing() -> None:
    result = summarize(load(*GOOD), "nodes", kills=0, recoveries_s=[])

    assert [claim.what for claim in result.claims(kills=0) if not claim.holds] == ["nodes killed"]


@pytest.mark.parametrize(("seconds", "period_s", "kills"), [(300, 20, 15), (50, 20, 3), (20, 10, 2), (1, 20, 1)])
def test_the_kills_of_a_run_follow_from_its_length_and_its_period(seconds: float, period_s: float, kills: int) -> None:
    assert planned_kills(seconds, period_s) == kills


def test_a_load_generator_that_fails_is_told() -> None:
    def broken(_: float) -> float:
        raise ZeroDivisionError

    with pytest.raises(RuntimeError, match="load generator"), loaded(OpenLoop("", [b""], 1.0, broken)):
        pass
