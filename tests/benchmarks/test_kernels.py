"""The benchmark of the kernels end to end in its smallest setting, and the gate that refuses to time a wrong result."""

import csv
import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.kernels import compose_weights, quantize_factors
from benchmarks.kernels.case import first_difference
from benchmarks.kernels.record import COLUMNS, NOT_MEASURED, Place, append, rows_of
from benchmarks.kernels.slabs import DEMO
from benchmarks.kernels.tile_tuning import candidates, write_entry
from benchmarks.kernels.timing import NOT_AVAILABLE, QUICK, measure
from kernels.slab_layout import TileLimits
from kernels.tuning import TUNING_FILE, TileSetting

HOST = torch.device("cpu")
OPERATIONS = ("synthesize_factors", "quantize_factors", "compose_weights", "host_generation", "apply_low_rank")
ON_ACCELERATORS_ONLY = ("gb_s", "share_of_copy", "copy_gb_s", "issue_limit_gb_s", "launches")


@pytest.fixture
def host(monkeypatch):
    """This machine as one without an accelerator."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "kernels", *map(str, arguments)])
    main()


def records(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def changed(case, change):
    """The case with a plain form whose slabs ``change`` was applied to."""

    def wrong(*operands):
        slabs, finite = case.plain(as_it_is)(*operands)
        change(slabs, finite)
        return slabs, finite

    return replace(case, plain=lambda _: wrong)


def as_it_is(function):
    return function


def test_a_quick_run_records_and_draws_every_operation(host, tmp_path, monkeypatch, capsys):
    record, plots = tmp_path / "new" / "kernels.csv", tmp_path / "plots"

    run(monkeypatch, "--quick", "--contenders", "ours", "eager", "--csv", record, "--plots", plots)

    rows = records(record)
    assert list(rows[0]) == list(COLUMNS)
    assert {(row["operation"], row["contender"]) for row in rows} == {
        (operation, contender) for operation in OPERATIONS for contender in ("ours", "eager")
    }
    assert all(0 < float(row["low_us"]) <= float(row["median_us"]) <= float(row["high_us"]) for row in rows)
    assert {row["ratio_to_ours"] for row in rows if row["contender"] == "ours"} == {"1.000"}
    assert {row[name] for row in rows for name in ON_ACCELERATORS_ONLY} == {NOT_MEASURED}
    assert {row["torch"] for row in rows} == {torch.__version__}
    assert sorted(path.name for path in plots.iterdir()) == sorted(f"{operation}.svg" for operation in OPERATIONS)
    assert all("</svg>" in path.read_text() for path in plots.iterdir())
    printed = capsys.readouterr().out
    assert all(operation in printed for operation in OPERATIONS)


def test_a_record_is_appended_to_and_another_table_is_not(tmp_path):
    case = quantize_factors.case(DEMO, "int8", 1, HOST)
    rows = list(rows_of(case, measure(case, ["ours"], QUICK, HOST), Place.here(HOST, 1)))
    path, other = tmp_path / "kernels.csv", tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")

    append(path, rows)
    append(path, rows)

    assert [row["contender"] for row in records(path)] == ["ours", "ours"]
    with pytest.raises(ValueError, match="Expected the columns"):
        append(other, rows)
    assert other.read_text() == "a,b\n1,2\n"


def test_a_contender_that_computes_something_else_is_not_timed():
    case = quantize_factors.case(DEMO, "int8", 3, HOST)
    # the first array is 4 x 32
    place = DEMO.layout("factors-r4-int8").segments[0].target + 32 + 5

    with pytest.raises(SystemExit, match=r"eager differs from ours in array 0 at \[2, 1, 5\]: expected -?\d+ within 0"):
        measure(changed(case, lambda slabs, _: slabs[2, place].add_(1)), ["eager"], QUICK, HOST)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda slabs, finite: finite[1].logical_not_(), "the flags of finite slabs"),
        (
            lambda slabs, finite: slabs[0, 0:2].copy_(torch.tensor([0, 0x7E], dtype=torch.uint8)),
            "the scales of array 0",
        ),
        (lambda slabs, finite: slabs[:, 64:96].add_(1), "array 0"),
    ],
    ids=["flag", "scale-not-a-number", "too-many-neighbours"],
)
def test_what_the_tolerance_does_not_cover_is_found(change, found):
    case = compose_weights.case(DEMO, "int8", 2, HOST)

    difference = first_difference(case, "eager", case.call(changed(case, change).plain(as_it_is)), case.call(case.ours))

    assert difference is not None
    assert f"differs from ours in {found} at" in difference


def test_a_neighbouring_quantum_of_a_sum_is_within_the_tolerance():
    case = compose_weights.case(DEMO, "int8", 2, HOST)
    ours = case.call(case.ours)
    smallest = ours.data[64:128].view(torch.int8).abs().argmin().item()

    def neighbour(slabs, finite):
        slabs[0, 64 + smallest] += 1

    assert first_difference(case, "eager", case.call(changed(case, neighbour).plain(as_it_is)), ours) is None


def test_where_nothing_can_be_compiled_the_record_says_so():
    case = quantize_factors.case(DEMO, "float16", 1, HOST)

    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        timings = measure(case, ["compile"], QUICK, HOST)

    rows = {row.contender: row for row in rows_of(case, timings, Place.here(HOST, 1))}
    assert set(rows) == {"ours", "compile"}
    assert (rows["compile"].median_us, rows["compile"].ratio_to_ours) == (NOT_AVAILABLE, NOT_AVAILABLE)


def test_tuning_is_refused_without_an_accelerator(host, monkeypatch):
    before = TUNING_FILE.read_bytes()

    with pytest.raises(SystemExit, match="Expected a CUDA accelerator for --tune"):
        run(monkeypatch, "--tune")

    assert TUNING_FILE.read_bytes() == before


def test_a_tuned_entry_joins_the_others(tmp_path):
    path = tmp_path / "tuning.json"
    shutil.copy(TUNING_FILE, path)
    setting = TileSetting(TileLimits(2048, 32, 64), 16)

    write_entry(path, "triton 3.9, some accelerator", {"compose_weights": setting, "quantize_factors": setting})

    entries, before = json.loads(path.read_text()), TUNING_FILE.read_text()
    entry = {"largest_tile": [2048, 32, 64], "elements_per_thread": 16}
    assert entries.pop("triton 3.9, some accelerator") == {"compose_weights": entry, "quantize_factors": entry}
    assert entries == json.loads(before)
    # what was there keeps its lines
    assert path.read_text().startswith(before.removesuffix("\n}\n"))
    assert [file.name for file in tmp_path.iterdir()] == ["tuning.json"]


def test_every_candidate_is_a_tile_of_its_own_within_its_limits():
    tried = list(candidates())

    assert len(set(tried)) == len(tried)
    assert all(1 <= its.limits.rows * its.limits.columns <= its.limits.elements for its in tried)
    assert all((number & (number - 1)) == 0 for its in tried for number in (its.limits.rows, its.limits.columns))


@pytest.mark.gpu
def test_on_an_accelerator_bandwidth_and_launches_are_measured(tmp_path, monkeypatch):
    record = tmp_path / "kernels.csv"

    run(monkeypatch, "--quick", "--csv", record, "--plots", tmp_path)

    rows = records(record)
    assert all(float(row[name]) > 0 for row in rows for name in ("gb_s", "share_of_copy", "copy_gb_s", "launches"))
    assert {row["accelerator"] for row in rows} == {torch.cuda.get_device_name()}
