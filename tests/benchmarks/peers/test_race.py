"""The command refuses what would spoil a record, misses wrk before it starts anything, and goes on where it ended."""

import argparse
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.peers import race
from benchmarks.peers.contenders import FINE_TUNING, OURS, PAIRS, PLAIN, PLAIN_TWO, known
from benchmarks.peers.record import Row, read
from benchmarks.serving.record import append
from duet.evaluation.provenance import commit
from tests.benchmarks.peers.races import row, won


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "peers.race", *map(str, arguments)])
    main()


def written(path: Path, rows: list[Row]) -> Path:
    for each in rows:
        append(path, each)
    return path


def test_a_record_is_reported_without_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = written(tmp_path / "race.csv", won())

    run(monkeypatch, "--report", record, "--plot", tmp_path / "race.svg")

    told = capsys.readouterr()
    assert "| 16 | LitServe | 500 |" in told.out
    assert told.out.count("PASS  ") == len(told.out.splitlines()) - told.out.count("|\n") - 2  # two blank lines
    assert "FAIL" not in told.out
    assert str(tmp_path / "race.svg") in told.err


def test_a_target_that_is_missed_is_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = written(tmp_path / "race.csv", [each for each in won() if each.contender == OURS])

    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--report", record)

    assert ended.value.code == 1


def test_wrk_is_missed_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SystemExit, match=r"Expected wrk on the PATH, got none\. Install it"):
        run(monkeypatch, "--cache", tmp_path, "--csv", tmp_path / "race.csv")

    assert list(tmp_path.iterdir()) == []


def test_a_record_is_gone_on_with_only_if_it_is_said_and_fits(tmp_path: Path) -> None:
    mine = {"commit": commit(), "server_cores": "0", "load_cores": "1"}
    pair = mine | {"server_cores": "0-1"}
    rows = [changed(row(), **mine), changed(row(PLAIN_TWO), **pair), changed(row(PLAIN, round=0), **mine, seconds=2.0)]
    record = written(tmp_path / "race.csv", rows)
    options = argparse.Namespace(csv=record, resume=True, seconds=3, server_cores="0", pair_cores="0-1", load_cores="1")

    assert race._before(options) == rows == read(record)
    for name, value in {"resume": False, "seconds": 4, "server_cores": "1", "load_cores": "0"}.items():
        with pytest.raises(ValueError, match="Expected"):
            race._before(argparse.Namespace(**vars(options) | {name: value}))
    written(record, [changed(row(), **mine | {"commit": "another"})])
    with pytest.raises(ValueError, match="another"):
        race._before(options)


def changed(one: Row, **values: object) -> Row:
    return Row(**vars(one) | values)


class FakeTurns:
    """Takes turns that were decided before, and notes them."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, str, str]] = []

    def take(self, contender, variant: str, number: int) -> list[Row]:
        self.taken.append((number, contender.name, variant))
        speed = float(1000 + len(variant))  # the longest name is the best variant
        rows = [row(contender.name, round=number, variant=variant, connections=load) for load in (1, 16)]
        return [changed(each, requests_s=speed) for each in rows]

    def fine_tune(self, contender, variant: str, number: int) -> list[Row]:
        return self.take(contender, variant, number)[:1]


def raced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Row]) -> tuple[FakeTurns, list[Row]]:
    turns = FakeTurns()
    monkeypatch.setattr(race, "Turns", lambda course: turns)
    monkeypatch.setattr(race, "peers_environment", lambda cache, tell: None)
    options = race._parser().parse_args(
        ["--connections", "1", "16", "--rounds", "3", "--models", str(tmp_path), "--csv", str(tmp_path / "race.csv")]
    )
    return turns, race._race(options, rows)


def test_variants_are_tried_once_and_the_best_one_races_in_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, rows = raced(tmp_path, monkeypatch, [])

    several = [each for each in known() if len(each.setups) > 1]
    trials = [turn for turn in turns.taken if turn[0] == 0]
    assert trials == [(0, each.name, variant) for each in several for variant in each.setups]
    for number in (1, 2, 3):
        its = {name: variant for round_, name, variant in turns.taken if round_ == number}
        assert its == {each.name: max(each.setups, key=len) for each in known()}
    assert read(tmp_path / "race.csv") == rows


def test_another_contender_begins_in_every_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, _ = raced(tmp_path, monkeypatch, [])

    firsts = [next(name for round_, name, _ in turns.taken if round_ == number) for number in (1, 2, 3)]
    assert firsts == [each.name for each in known()[:3]]


def test_turns_of_the_record_are_not_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows = raced(tmp_path, monkeypatch, [])
    kept = [each for each in rows if each.round < 2 or (each.round, each.contender) == (2, FINE_TUNING)]
    # the last turn of the second round that is here was cut short
    kept += [each for each in rows if (each.round, each.contender, each.connections) == (2, PAIRS[0], 1)]

    again, whole = raced(tmp_path, monkeypatch, kept)

    assert {number for number, _, _ in again.taken} == {2, 3}
    assert (2, PAIRS[0], "as it is") in again.taken
    assert FINE_TUNING not in {name for number, name, _ in again.taken if number == 2}
    assert {each.round for each in whole} == {0, 1, 2, 3}
