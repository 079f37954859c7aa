"""What is said of rollovers follows from their phases: failures, mixed versions, and lateness beyond chance."""

from dataclasses import replace

import pytest

from benchmarks.serving.rollover import Row, claims

STEADY = Row("colocated", 100.0, 50.0, 1, False, 600, 0, "200:600", 0, 1, 3.0, 9.0, 20.0, 0.0, "a machine", "c")
MOVING = replace(STEADY, rolls_over=True, flip_s=1.5)


def failing(*rows: Row) -> list[str]:
    return [claim.what for claim in claims(rows) if not claim.holds]


def test_good_rollovers_pass() -> None:
    assert failing(STEADY, MOVING, STEADY, MOVING) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"failed": 1}, "failed requests"),
        ({"mixed": 1}, "answers of mixed versions"),
        ({"flip_s": float("nan")}, "rollovers that were answered for"),
        ({"late": 12}, "budgets missed because of rollovers"),
    ],
)
def test_every_claim_can_fail(change: dict[str, float], expected: str) -> None:
    assert failing(STEADY, replace(MOVING, **change)) == [expected]


def test_what_is_late_by_chance_is_not_held_against_rollovers() -> None:
    assert failing(STEADY, replace(MOVING, late=4)) == []


def test_no_rollover_at_all_is_nothing_shown() -> None:
    assert "rollovers that were answered for" in failing(STEADY)
