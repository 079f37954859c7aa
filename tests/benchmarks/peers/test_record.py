"""The record of a race is read back as it was written, tells what is left to do, and is condensed without trials."""

import math
from pathlib import Path

import pytest

from benchmarks.peers.contenders import BENTOML, OURS, PLAIN
from benchmarks.peers.record import TRIAL, best_variant, counted, finished, medians, ratio, read
from benchmarks.serving.record import append
from tests.benchmarks.peers.races import row, won


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    rows = won()
    for each in rows:
        append(tmp_path / "new" / "race.csv", each)

    assert read(tmp_path / "new" / "race.csv") == rows


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("round,contender\n1,ours\n")

    with pytest.raises(ValueError, match="to have the columns"):
        read(tmp_path / "other.csv")


def test_a_turn_is_over_when_every_load_was_measured() -> None:
    rows = [row(connections=connections) for connections in (1, 16, 64)] + [row(PLAIN), row(PLAIN, connections=64)]

    assert finished(rows, (1, 16, 64)) == {(1, OURS, "as it is")}
    assert finished(rows, (16, 64)) == {(1, OURS, "as it is"), (1, PLAIN, "as it is")}


def test_the_variant_that_is_best_over_all_loads_races() -> None:
    tried = [
        row(BENTOML, round=TRIAL, variant=variant, connections=connections, requests_s=speed)
        for variant, speeds in {"good at one": (900.0, 10.0), "good at both": (200.0, 400.0)}.items()
        for connections, speed in zip((1, 64), speeds, strict=True)
    ]
    raced = [row(BENTOML, round=1, variant="good at one", requests_s=5000.0)]

    assert best_variant([*tried, *raced], BENTOML) == "good at both"
    with pytest.raises(ValueError, match="Expected trials of LitServe"):
        best_variant(tried, "LitServe")


def test_medians_are_of_the_rounds_that_count() -> None:
    speeds = {TRIAL: 9000.0, 1: 100.0, 2: 300.0, 3: 200.0}
    rows = [row(round=number, requests_s=speed, failed=number) for number, speed in speeds.items()]

    its = medians(rows, OURS, 16)

    assert its is not None
    assert (its.requests_s, its.rounds, its.failed) == (200.0, 3, 6)
    assert medians(rows, OURS, 64) is None
    assert len(counted(rows)) == 3


def test_a_ratio_is_the_median_of_ratios_within_rounds() -> None:
    # a machine that slows down takes both along: the medians of 100, 10, 1 and 50, 5, 40 would say 2
    mine, its = {1: 100.0, 2: 10.0, 3: 1.0, 4: 7.0}, {1: 50.0, 2: 5.0, 3: 40.0}
    rows = [row(round=number, requests_s=speed) for number, speed in mine.items()]
    rows += [row(PLAIN, round=number, requests_s=speed) for number, speed in its.items()]
    rows += [row(round=TRIAL, requests_s=1e6), row(PLAIN, round=TRIAL, requests_s=1.0)]

    assert ratio(rows, "requests_s", OURS, PLAIN, 16) == 2.0
    assert math.isnan(ratio(rows, "requests_s", OURS, PLAIN, 64))
    assert math.isnan(ratio(rows, "requests_s", OURS, "LitServe", 16))
