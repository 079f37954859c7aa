"""The verdict of a race follows its targets; the tables name everybody who raced."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers.contenders import BENTOML, FINE_TUNING, LITSERVE, OURS, PAIRS, PLAIN, PLAIN_TWO, SPLIT, known
from benchmarks.peers.plot import draw
from benchmarks.peers.record import TRIAL, Row
from benchmarks.peers.report import claims, tables
from tests.benchmarks.peers.races import row, won


def changed(contender: str, connections: int, **values: object) -> list[Row]:
    return [
        replace(each, **values) if (each.contender, each.connections) == (contender, connections) else each
        for each in won()
    ]


def missed(rows: list[Row]) -> list[str]:
    return [claim.what for claim in claims(rows) if not claim.holds]


def test_a_race_that_is_won_reaches_every_target() -> None:
    assert missed(won()) == []
    assert len(claims(won())) == 2 * (2 + 2) + 2 * 2 + 1 + 1


@pytest.mark.parametrize(
    ("contender", "connections", "values", "target"),
    [
        (PLAIN, 16, {"requests_s": 1001.0}, "requests/s, ours, colocated / the best other, 16 connections"),
        (SPLIT, 64, {"requests_s": 1001.0}, "requests/s, ours, colocated / the best other, 64 connections"),
        (PLAIN, 64, {"p99_ms": 9.9}, "p99, ours, colocated / the best other, 64 connections"),
        (LITSERVE, 16, {"requests_s": 600.0}, "requests/s, ours, colocated / LitServe, 16 connections"),
        (BENTOML, 64, {"requests_s": 600.0}, "requests/s, ours, colocated / BentoML, 64 connections"),
        (PLAIN_TWO, 16, {"p99_ms": 4.9}, "p99, ours, 2 replicas / FastAPI + uvicorn, 2 processes, 16 connections"),
        (PLAIN, 1, {"requests_s": 2001.0}, "requests/s, ours, colocated / the fastest, 1 connection"),
        (OURS, 1, {"failed": 1}, "failed requests of ours, colocated"),
    ],
)
def test_each_target_can_be_missed(contender: str, connections: int, values: dict[str, object], target: str) -> None:
    assert missed(changed(contender, connections, **values)) == [target]


def test_what_did_not_race_reaches_no_target() -> None:
    without_peers = [each for each in won() if each.contender not in (LITSERVE, BENTOML, *PAIRS)]
    expected = {f"requests/s, {OURS} / {peer}, {load} connections" for peer in (LITSERVE, BENTOML) for load in (16, 64)}

    assert expected < set(missed(without_peers))
    assert len(missed([])) == len(claims([])) - 1  # nothing has failed


def test_pairs_and_the_device_are_not_among_those_to_beat() -> None:
    rows = [*changed(PLAIN_TWO, 16, requests_s=1950.0), row(FINE_TUNING, connections=16, requests_s=1e6)]

    assert missed(rows) == []


def test_the_tables_name_everybody_and_hide_trials() -> None:
    text = tables([*won(), row(BENTOML, round=TRIAL, variant="tried", requests_s=123_456.0)])
    lines = text.splitlines()

    for contender in known():
        assert sum(f"| {contender.name} |" in line for line in lines) == (2 if contender.name == FINE_TUNING else 4)
    assert "| 16 | LitServe | 500 | 2.00 | 5.00 | 10.00 | 20.0 | 0.50 | 0 |" in lines
    assert "| 64 | FastAPI + uvicorn, 2 processes | 1,900 | 1.05 | 1.32 | 2.63 | 5.3 | 0.95 | 0 |" in lines
    assert "123,456" not in text
    tabular = [line for line in lines if line]
    assert {line.count("|") for line in tabular} == {10, 9}


def test_equal_records_are_drawn_as_equal_bytes(tmp_path: Path) -> None:
    draw(won(), tmp_path / "one" / "race.svg")
    draw(won(), tmp_path / "race.svg")

    drawn = (tmp_path / "race.svg").read_bytes()
    assert b"</svg>" in drawn
    assert drawn == (tmp_path / "one" / "race.svg").read_bytes()
