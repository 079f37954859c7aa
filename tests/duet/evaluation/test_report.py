"""A report says what the records say, which runs are missing, and leaves what a person wrote alone."""

import json

import numpy as np
import pytest

from duet.evaluation.comparison import group_runs
from duet.evaluation.record import pack_mask, write_record
from duet.evaluation.report import difference_table, group_reading, place_section, write_report
from duet.protocol.errors import InvalidData, UnusableRun
from duet.training.config import TrainingConfig
from tests.duet.evaluation.records import USERS, made_up, made_up_duet
from tests.duet.evaluation.sweeps import size_sweep

VARIANTS = ["static", "duet-r4", "capacity-matched"]


def fill(results, *, grid="paper", without=()):
    """Write the records of a grid of three variants and two seeds, but for some."""
    runs = [
        make(**names, seed=seed, grid=grid)
        for seed in (0, 1)
        for make, names in ((made_up, {}), (made_up_duet, {}), (made_up, {"name": "capacity-matched"}))
    ]
    for run in runs:
        if run.run_name not in without:
            write_record(results / grid, run)
    outline = {"seeds": [0, 1], "variants": VARIANTS}
    (results / grid).mkdir(parents=True, exist_ok=True)
    (results / grid / "grid.json").write_text(json.dumps(outline))
    return {run.run_name: run for run in runs}


def tables(text):
    """The tables of a document: a list of rows each, the header first."""
    found, lines = [], [*text.splitlines(), ""]
    rows = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            found.append(rows)
            rows = []
    return found


def test_the_first_table_holds_quality_differences_and_costs(tmp_path):
    runs = fill(tmp_path / "results")

    write_report(tmp_path / "results", tmp_path / "report.md")

    main, *_ = tables((tmp_path / "report.md").read_text(encoding="utf-8"))
    rows = {row[0]: dict(zip(main[0], row, strict=True)) for row in main[2:]}
    means = [runs[f"duet-r4-s{seed}"].answers["factors-r4"].metrics["uauc"] for seed in (0, 1)]
    row = rows["duet-r4, factors-r4"]
    assert list(rows)[:2] == ["static", "duet-r4, factors-r4"]
    assert list(rows)[-1] == "capacity-matched"
    assert row["UAUC"] == f"{np.mean(means):.4f} ± {np.std(means, ddof=1):.4f}"
    assert row["Δ NDCG@10 to static"].startswith("+")
    assert row["best epoch"] == "4"
    assert row["minutes"] == "1.5"
    assert row["bytes per update, float32 / int8"] == "1,000 / 250"
    assert rows["static"]["Δ NDCG@10 to static"] == "–"
    assert rows["static"]["Δ NDCG@10 to capacity-matched"] != "–"


def test_the_swap_table_compares_with_own_parameters_from_best_to_worst(tmp_path):
    fill(tmp_path / "results")

    write_report(tmp_path / "results", tmp_path / "report.md")

    *_, swaps = tables((tmp_path / "report.md").read_text(encoding="utf-8"))
    assert [row[1] for row in swaps[2:]] == ["own", "stale-1", "stale-5", "mean", "swapped", "shared"]
    assert swaps[2][4:] == ["–", "–", "–"]
    assert [row[6] == "–" for row in swaps[2:]] == [True, False, False, False, False, True]
    assert swaps[3][6] == swaps[3][4]
    assert swaps[4][6] != swaps[4][4]
    assert all(row[5].startswith("-") for row in swaps[3:])


@pytest.mark.parametrize("is_known", [True, False])
def test_unseen_users_have_a_column_where_every_record_knows_them(is_known):
    unseen = {"unseen": pack_mask(np.arange(USERS) % 3 == 0)}
    cold = made_up().groups
    static, duet = made_up(groups=cold | unseen), made_up_duet(groups=cold | (unseen if is_known else {}))
    variants = group_runs([static, duet])

    header, _, *rows = difference_table(variants).splitlines()

    assert ("unseen" in group_reading(variants), "unseen" in header) == (is_known, is_known)
    if is_known:
        mask = np.arange(USERS) % 3 == 0
        own, theirs = (run.values(next(iter(run.answers)), "ndcg@10")[mask] for run in (duet, static))
        assert rows[0].split("|")[-2].strip().startswith(f"{(own - theirs).mean():+.4f}")


def test_a_sweep_of_sizes_says_how_many_times_the_bytes_a_static_model_needs(tmp_path):
    variants = size_sweep(1.5)
    for variant in variants.values():
        for run in variant.records:
            write_record(tmp_path / "results" / "paper", run)
    outline = {"seeds": [0, 1], "variants": list(variants)}
    (tmp_path / "results" / "paper" / "grid.json").write_text(json.dumps(outline))

    write_report(tmp_path / "results", tmp_path / "report.md")

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    (sizes,) = [table for table in tables(text) if table[0][-1].startswith("a static model needs")]
    assert sizes[2][:2] == ["duet-d16", "64,000"]
    assert sizes[2][3].startswith("2.0 [")
    assert "(results/paper/plots/quality-by-model-bytes.svg)" in text


def test_decoders_are_compared_where_they_differ_only(tmp_path):
    for name, decoders in (("one", 1), ("three", 3)):
        config = TrainingConfig.model_validate({"generator": {"decoders": decoders}})
        write_record(tmp_path / "results" / "paper", made_up_duet(name, config=config))
    outline = {"seeds": [0], "variants": ["one", "three"]}
    (tmp_path / "results" / "paper" / "grid.json").write_text(json.dumps(outline))

    write_report(tmp_path / "results", tmp_path / "report.md")

    (table,) = [t for t in tables((tmp_path / "report.md").read_text()) if t[0][1] == "decoders"]
    # the best of 0.1, 0.15, 0.2, 0.22, 0.21 is 0.22, reached within 5 % in the fourth epoch
    assert table[2:] == [
        ["one", "1", "0.2200", "4.0", "0.0100"],
        ["three", "3", "0.2200", "4.0", "0.0100"],
    ]


def test_plots_are_linked_from_where_the_document_lies(tmp_path):
    fill(tmp_path / "docs" / "results")

    write_report(tmp_path / "docs" / "results", tmp_path / "docs" / "report.md")

    text = (tmp_path / "docs" / "report.md").read_text(encoding="utf-8")
    linked = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len(linked) == 4
    assert all((tmp_path / "docs" / link).is_file() for link in linked)
    assert linked[0] == "results/paper/plots/quality-by-bytes.svg"


def test_a_report_written_twice_is_the_same(tmp_path):
    fill(tmp_path / "results")
    write_report(tmp_path / "results", tmp_path / "report.md")
    first = (tmp_path / "report.md").read_bytes()

    write_report(tmp_path / "results", tmp_path / "report.md")

    assert (tmp_path / "report.md").read_bytes() == first


def test_missing_runs_are_named(tmp_path):
    fill(tmp_path / "results", without=["duet-r4-s1"])

    (grid,) = write_report(tmp_path / "results", tmp_path / "report.md")

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert grid.missing == ("duet-r4-s1",)
    assert "**Missing: duet-r4-s1.**" in text
    assert [row[1] for row in tables(text)[0][2:4]] == ["2", "1"]


def test_a_grid_of_which_nothing_is_done_yet_is_reported_as_such(tmp_path):
    names = [f"{variant}-s{seed}" for variant in VARIANTS for seed in (0, 1)]
    fill(tmp_path / "results", without=names)

    write_report(tmp_path / "results", tmp_path / "report.md")

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"**Missing: {', '.join(names)}.**" in text
    assert not tables(text)


def test_records_that_the_grid_no_longer_has_are_left_out_and_named(tmp_path):
    fill(tmp_path / "results")
    write_record(tmp_path / "results" / "paper", made_up_duet("duet-r8"))

    write_report(tmp_path / "results", tmp_path / "report.md")

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Left out, since the grid does not have them: duet-r8-s0." in text
    assert not [row for row in tables(text)[0] if row[0].startswith("duet-r8")]


def test_what_a_person_wrote_around_the_markers_stays(tmp_path):
    fill(tmp_path / "results")
    out = tmp_path / "report.md"
    out.write_text(
        "# Ours\n\nBefore.\n\n<!-- grid paper -->\nremains of last time\n<!-- end paper -->\n\nAfter.\n",
        encoding="utf-8",
    )

    write_report(tmp_path / "results", out)

    text = out.read_text(encoding="utf-8")
    assert text.startswith("# Ours\n\nBefore.\n\n<!-- grid paper -->\n\nmade-up: 80 users")
    assert text.endswith("<!-- end paper -->\n\nAfter.\n")
    assert "remains" not in text


def test_a_grid_without_markers_comes_at_the_end_and_every_grid_has_its_own(tmp_path):
    for grid in ("first", "second"):
        fill(tmp_path / "results", grid=grid)
    out = tmp_path / "new" / "report.md"
    out.parent.mkdir()
    out.write_text("# Ours\n", encoding="utf-8")

    write_report(tmp_path / "results", out)

    text = out.read_text(encoding="utf-8")
    marks = ["# Ours", "## first", "<!-- grid first -->", "<!-- end first -->", "## second", "<!-- grid second -->"]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "document",
    [
        "<!-- grid paper -->",
        "<!-- end paper -->",
        "<!-- end paper --> <!-- grid paper -->",
        "<!-- grid paper --> <!-- end paper --> <!-- grid paper --> <!-- end paper -->",
    ],
    ids=["no end", "no start", "the other way round", "twice"],
)
def test_broken_markers_are_refused(document, tmp_path):
    with pytest.raises(InvalidData, match="Repair the markers"):
        place_section(document, "paper", "new", tmp_path / "report.md")


def test_broken_markers_leave_the_document_alone(tmp_path):
    fill(tmp_path / "results")
    (tmp_path / "report.md").write_text("<!-- grid paper --> mine", encoding="utf-8")

    with pytest.raises(InvalidData):
        write_report(tmp_path / "results", tmp_path / "report.md")

    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "<!-- grid paper --> mine"


def test_a_folder_without_any_grid_is_refused(tmp_path):
    with pytest.raises(InvalidData, match="duet evaluate --grid"):
        write_report(tmp_path, tmp_path / "report.md")


def test_a_damaged_record_is_refused_before_anything_is_written(tmp_path):
    fill(tmp_path / "results")
    (tmp_path / "results" / "paper" / "static-s0.json").write_text("{}")

    with pytest.raises(UnusableRun, match=r"static-s0\.json"):
        write_report(tmp_path / "results", tmp_path / "report.md")

    assert not (tmp_path / "report.md").exists()
