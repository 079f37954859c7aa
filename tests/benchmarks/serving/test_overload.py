"""What the benchmark of overload says follows from what its streams met."""

from dataclasses import replace

import pytest

from benchmarks.serving.open_loop import Reply
from benchmarks.serving.overload import NOOP, Row, _knee, claims, dishonesty

ROW = Row(
    model="heavy",
    round=0,
    stream=100,
    percent=100,
    capacity_s=100.0,
    pace_us=150.0,
    connections=64,
    seconds=10.0,
    sent=1000,
    in_time=950,
    late=0,
    refused=50,
    failed=0,
    not_sent=0,
    goodput_s=95.0,
    p50_ms=20.0,
    p95_ms=40.0,
    p99_ms=45.0,
    refusal_p50_ms=3.0,
    error_p95_ms=4.0,
    dishonesty_p95=0.5,
    behind_p99_ms=1.0,
    budget_ms=50.0,
    server_cores="0",
    load_cores="1",
    hardware="a machine",
    commit="c",
)
DEMO = replace(ROW, model="demo", capacity_s=900.0, in_time=1000, refused=0)
GOOD = [
    replace(ROW, model=NOOP, capacity_s=1000.0, percent=0),
    *(replace(ROW, percent=percent) for percent in (100, 150, 200)),
    *(replace(DEMO, percent=percent) for percent in (50, 80)),
]


def failing(rows: list[Row]) -> list[str]:
    return [claim.what for claim in claims(rows, demo="demo", heavy="heavy") if not claim.holds]


def test_everything_holds_for_a_good_server() -> None:
    assert failing(GOOD) == []


def test_nothing_that_was_not_measured_holds() -> None:
    assert len(failing([])) == len(claims([], demo="demo", heavy="heavy")) - 1  # nobody was too much for the generator


@pytest.mark.parametrize(
    ("place", "change", "expected"),
    [
        (0, {"capacity_s": 300.0}, "of the no-op's"),
        (1, {"in_time": 840}, "at 100 %, goodput"),
        (2, {"late": 20}, "at 150 %, in time of accepted"),
        (3, {"refusal_p50_ms": 21.0}, "at 200 %, median refusal"),
        (3, {"dishonesty_p95": 1.1}, "heavy at 200 %, p95 of |predicted"),
        (4, {"in_time": 998, "failed": 2}, "demo at 50 %, in time of sent"),
        (5, {"in_time": 998, "refused": 2}, "demo at 80 %, in time of sent"),
        (5, {"dishonesty_p95": float("nan")}, "demo at 80 %, p95"),
        (1, {"not_sent": 1}, "could not send"),
    ],
)
def test_one_number_that_is_not_enough_fails_one_claim(place: int, change: dict[str, float], expected: str) -> None:
    rows = [replace(row, **change) if at == place else row for at, row in enumerate(GOOD)]

    (what,) = failing(rows)

    assert expected in what


def test_a_claim_is_about_the_median_of_the_rounds() -> None:
    bad = replace(DEMO, percent=80, in_time=900, late=100)

    assert failing([*GOOD, replace(bad, round=1), replace(DEMO, percent=80, round=2)]) == []
    assert len(failing([*GOOD, replace(bad, round=1), replace(bad, round=2)])) == 2


def test_what_the_streams_of_a_round_met_at_one_load_counts_together() -> None:
    few_and_bad = replace(DEMO, stream=70, percent=80, seconds=0.25, sent=10, in_time=8)

    assert len(failing([*GOOD, few_and_bad])) == 1
    assert failing([*GOOD[:-1], replace(GOOD[-1], sent=9_990, in_time=9_990), few_and_bad]) == []


def test_few_replies_tell_no_quantile() -> None:
    assert failing([*GOOD, *[replace(ROW, percent=200, sent=99, in_time=99, seconds=1, dishonesty_p95=9.0)] * 2]) == []


def test_capacities_are_compared_at_the_speed_that_the_core_had() -> None:
    slow_noop = replace(GOOD[0], capacity_s=500.0, pace_us=300.0)

    assert failing([slow_noop, *GOOD[1:]]) == []


def test_the_knee_is_the_highest_load_that_is_carried() -> None:
    rows = [replace(DEMO, percent=percent, in_time=1000 if percent < 90 else 900) for percent in (50, 80, 90, 120)]

    assert "up to 80 %" in _knee(rows, "demo")


@pytest.mark.parametrize(
    ("predicted_ms", "server_ms", "expected"),
    [(10.0, 15.0, 1.0), (15.0, 10.0, 1.0), (30.0, 40.0, 1.0), (0.0, 40.0, 4.0), (8.0, 8.0, 0.0)],
)
def test_a_prediction_may_be_off_by_5_ms_or_a_quarter(predicted_ms: float, server_ms: float, expected: float) -> None:
    reply = Reply(0.0, 50.0, "in-time", 200, server_ms=server_ms, predicted_ms=predicted_ms)

    assert dishonesty(reply) == pytest.approx(expected)
