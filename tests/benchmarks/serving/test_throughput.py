"""What is said of throughput follows from the rounds: at the pace of the cores, and against the best of the others."""

from argparse import Namespace
from dataclasses import replace

import pytest

from benchmarks.serving.contenders.batch_times import batch_times, slowest_ms
from benchmarks.serving.throughput import NAIVE, NOOP, OURS, PLAIN, Row, _chosen, claims, contenders
from tests.published_version import write_version

ROW = Row("colocated", 0, OURS, 1, 1400.0, 0.6, 1.0, 2.0, 0, 150.0, "0", "1", "a machine", "c")
WAITS = [name for name in contenders("split", devices=64, execution_ms=2.64) if name.startswith(NAIVE)]


def run(placement: str, *others: tuple[str, float, float], rounds: int = 3) -> list[Row]:
    """Rows of ours, and of others that have a share of its throughput and a multiple of its latency."""
    return [
        replace(
            ROW,
            placement=placement,
            round=number,
            contender=name,
            connections=connections,
            requests_s=share * ROW.requests_s,
            p50_ms=times * ROW.p50_ms,
        )
        for number in range(rounds)
        for name, share, times in ((OURS, 1.0, 1.0), *others)
        for connections in (1, 16, 64)
    ]


COLOCATED = run("colocated", (PLAIN, 0.75, 1.3), (NOOP, 2.5, 0.4))
SPLIT = run("split", *((name, 0.1 + place / 100, 1.2 + place) for place, name in enumerate(WAITS)))


def failing(rows: list[Row]) -> list[str]:
    return [claim.what for claim in claims(rows) if not claim.holds]


def changed(rows: list[Row], name: str, *at: int, **change: float) -> list[Row]:
    return [replace(row, **change) if row.contender == name and row.connections in at else row for row in rows]


@pytest.mark.parametrize("rows", [COLOCATED, SPLIT], ids=["colocated", "split"])
def test_everything_holds_for_a_good_server(rows: list[Row]) -> None:
    assert failing(rows) == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (changed(COLOCATED, PLAIN, 16, requests_s=1100.0), f"requests/s at 16 connections, times those of {PLAIN}"),
        (changed(COLOCATED, PLAIN, 64, requests_s=1100.0), f"requests/s at 64 connections, times those of {PLAIN}"),
        (changed(COLOCATED, NOOP, 1, p50_ms=0.19), f"p50 at 1 connection, times that of {NOOP}"),
        (changed(COLOCATED, OURS, 16, failed=1), "failed requests of ours"),
        (changed(SPLIT, WAITS[1], 64, requests_s=351.0), f"requests/s at 64 connections, times those of {WAITS[1]}"),
        (changed(SPLIT, WAITS[3], 64, requests_s=351.0), f"requests/s at 64 connections, times those of {WAITS[3]}"),
        (changed(SPLIT, WAITS[2], 1, p50_ms=0.59), f"p50 at 1 connection, times that of {WAITS[2]}"),
        (changed(SPLIT, OURS, 64, failed=1), "failed requests of ours"),
    ],
)
def test_every_claim_can_fail(rows: list[Row], expected: str) -> None:
    assert failing(rows) == [expected]


def test_a_slower_core_is_not_held_against_anybody() -> None:
    slow = [
        replace(row, requests_s=row.requests_s / 2, p50_ms=row.p50_ms * 2, pace_us=row.pace_us * 2)
        if row.contender == OURS
        else row
        for row in COLOCATED
    ]

    assert failing(slow) == []


def test_one_bad_round_of_three_is_none() -> None:
    bad = [
        replace(row, p50_ms=9.0, requests_s=1.0) if (row.round, row.contender) == (1, OURS) else row for row in SPLIT
    ]

    assert failing(bad) == []


@pytest.mark.parametrize(
    "rows",
    [
        [row for row in SPLIT if row.contender != WAITS[3]],
        [row for row in SPLIT if row.contender != WAITS[0] or row.connections == 16],
        [row for row in SPLIT if row.contender == OURS],
    ],
    ids=["a wait", "a number of connections", "all"],
)
def test_the_best_of_some_waits_is_not_the_best(rows: list[Row]) -> None:
    assert len(failing(rows)) == 2


def test_nothing_that_was_not_measured_holds() -> None:
    assert len(failing(run("colocated"))) == 3


def test_an_execution_time_is_a_wait_and_stands_in_the_name() -> None:
    known = contenders("split", devices=64, execution_ms=2.64)

    assert WAITS[3] == f"{NAIVE}, wait 2.6 ms, as a batch of 64 takes"
    assert known[WAITS[3]](None, "demo")[-1] == '{"wait_s": 0.00264}'
    assert [name for name in contenders("split") if name.startswith(NAIVE)] == WAITS[:3]


@pytest.mark.parametrize(
    ("only", "chosen"), [([], 6), (["no-op"], 3), (["no-op, direct"], 2), ([PLAIN, NOOP], 3), (["ours"], 3)]
)
def test_contenders_are_chosen_by_how_their_names_begin(only: list[str], chosen: int) -> None:
    options = Namespace(placement="colocated", connections=[1], only=only)

    assert len(_chosen(options)) == chosen


def test_the_time_of_a_batch_is_that_of_the_slowest_stage(tmp_path) -> None:
    models = write_version(tmp_path).folder.parents[1]

    times_ms = batch_times(models, "tiny", 5)

    assert list(times_ms) == ["encode", "generate", "compose"]
    assert all(0 < time_ms < 1000 for time_ms in times_ms.values())
    assert 0 < slowest_ms(models, "tiny", devices=5, cores="0") < 1000


def test_stages_that_cannot_be_timed_are_told(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="times of the stages"):
        slowest_ms(tmp_path, "tiny", devices=5, cores="0")
