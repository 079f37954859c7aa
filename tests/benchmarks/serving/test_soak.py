"""A soak tells growth from noise, names every process, and fails on either growth or late answers."""

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.serving.soak import ALL, Reading, Trend, claims, held_by, plot


def readings(memory: Callable[[float], float], descriptors: Callable[[float], int] = lambda _: 100) -> list[Reading]:
    return [
        Reading(at_s, int(at_s * 100), process, 3, memory(at_s), descriptors(at_s), "a machine", "c")
        for at_s in range(0, 3600, 5)
        for process in ("raylet", ALL)
    ]


def failing(*found: Reading, **outcomes: int) -> list[str]:
    return [claim.what for claim in claims(found, {"in-time": 10_000} | outcomes) if not claim.holds]


def test_the_slope_is_found_within_its_interval_and_what_fills_at_first_is_left_out() -> None:
    draws = random.Random(0)

    trend = Trend.of([(at_s, 500 * min(1, at_s / 300) + at_s / 3600 * 7 + draws.gauss(0, 1)) for at_s in range(3600)])

    assert abs(trend.slope - 7) < trend.margin < 1
    assert trend.mean == pytest.approx(500 + 7 * 7 / 12, abs=0.2)


def test_too_few_readings_have_no_slope() -> None:
    assert math.isnan(Trend.of([(0.0, 1.0), (1.0, 1.0)]).slope)


def test_what_is_flat_passes() -> None:
    draws = random.Random(0)

    assert failing(*readings(lambda at_s: 2000 + draws.gauss(0, 5))) == []


def test_memory_that_grows_fails() -> None:
    assert failing(*readings(lambda at_s: 2000 + at_s / 3600 * 100)) == [
        "growth of resident memory at most, of all of it"
    ]


def test_memory_that_may_have_grown_fails() -> None:
    trend = Trend.of([(float(at_s), 2000 + 60 * (at_s // 300 % 2)) for at_s in range(0, 3600, 5)])

    assert trend.slope - trend.margin < 0 < trend.slope + trend.margin
    found = failing(*readings(lambda at_s: 2000 + 60 * (at_s // 300 % 2)))
    assert found == ["growth of resident memory at most, of all of it"]


def test_descriptors_that_are_not_closed_fail() -> None:
    assert failing(*readings(lambda _: 2000, lambda at_s: 100 + int(at_s / 60))) == ["more descriptors at the end"]


def test_nothing_that_cannot_be_fitted_passes() -> None:
    assert "growth of resident memory at most, of all of it" in failing(*readings(lambda _: 2000)[:4])


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ({"late": 102}, ["in time of accepted"]),
        ({"late": 100, "refused": 5_000}, []),
        ({"failed": 1}, ["failed requests"]),
    ],
)
def test_answers_count_as_well(outcomes: dict[str, int], expected: list[str]) -> None:
    assert failing(*readings(lambda _: 2000), **outcomes) == expected


def test_processes_are_summed_up_by_name() -> None:
    sleeping = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    try:
        held = held_by([psutil.Process(child.pid) for child in sleeping] + [psutil.Process(os.getpid())])
    finally:
        for child in sleeping:
            child.communicate(b"\n")

    assert held[ALL][0] == 3
    assert sum(count for name, (count, _, _) in held.items() if name != ALL) == 3
    assert held[ALL][1] == pytest.approx(sum(resident for name, (_, resident, _) in held.items() if name != ALL))


def test_a_process_that_has_gone_is_left_out() -> None:
    gone = psutil.Popen([sys.executable, "-c", ""])
    gone.wait()

    assert held_by([gone]) == {}


def test_it_is_drawn(tmp_path: Path) -> None:
    plot(readings(lambda _: 2000), tmp_path / "soak.svg")

    assert (tmp_path / "soak.svg").read_text(encoding="utf-8").count('<g id="axes_') == 2
