"""Plots show what the records say, the same bytes every time, and only what there is something to show for."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from duet.evaluation.comparison import group_runs
from duet.evaluation.plots import draw, plot_bytes, plot_staleness, plot_swaps, plot_training
from tests.duet.evaluation.records import made_up, made_up_duet

ALL = {"quality-by-bytes.svg", "swap-test.svg", "staleness.svg", "training.svg"}
SUBTITLE = "made-up, 2 seeds"


@pytest.fixture(scope="module")
def variants():
    runs = [made_up(seed=seed) for seed in (0, 1)]
    runs += [made_up_duet(seed=seed) for seed in (0, 1)]
    runs += [made_up("capacity-matched", seed, skills={"shared": 1.0}) for seed in (0, 1)]
    return group_runs(runs)


def texts(figure):
    """All that is written in a figure."""
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def points(axes):
    """The marked points of a plot."""
    return {
        (round(x, 6), round(y, 6))
        for line in axes.lines
        if line.get_marker() == "o"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


def test_the_same_records_make_the_same_files(variants, tmp_path):
    first = draw(variants, tmp_path / "a", subtitle=SUBTITLE)
    draw(variants, tmp_path / "b", subtitle=SUBTITLE)

    assert first.keys() == ALL == {path.name for path in (tmp_path / "a").iterdir()}
    for name in ALL:
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes()
        assert ET.fromstring(data).tag.endswith("svg")


def test_every_representation_stands_at_its_size_and_its_gain(variants):
    figure = plot_bytes(variants, SUBTITLE)

    static, duet = variants["static"], variants["duet-r4"]
    sizes = {"factors-r4": 1.0, "factors-r2": 1.1, "factors-r1": 1.2, "shared": 0.0}
    assert points(figure.axes[0]) == {
        (size, round(duet.under(condition).minus(static, "ndcg@10")[0], 6)) for condition, size in sizes.items()
    }
    assert {"r4", "r2", "duet-r4, 1.2 kB", "static", "capacity-matched,\nnothing is sent"} <= set(texts(figure))


def test_bars_stand_for_own_stale_mean_and_swapped_with_their_differences(variants):
    figure = plot_swaps(variants, SUBTITLE)

    duet = variants["duet-r4"]
    conditions = ("own", "stale-5", "mean", "swapped", "shared")
    bars = [bar.get_width() for bar in figure.axes[0].patches]
    assert bars == pytest.approx([sum(duet.under(name).means("ndcg@10")) / 2 for name in conditions])
    change = duet.under("swapped").minus(duet.under("own"), "ndcg@10")[0]
    assert [text for text in texts(figure) if text.endswith(f"{change:+.4f}".replace("-", "−"))]
    assert {"own, now", "own, 5 interactions ago", "mean user's", "another user's"} <= set(texts(figure))


def test_the_staleness_curve_starts_at_fresh_parameters(variants):
    figure = plot_staleness(variants, SUBTITLE)

    duet = variants["duet-r4"]
    ages = {0: "own", 1: "stale-1", 5: "stale-5"}
    assert points(figure.axes[0]) == {
        (age, round(sum(duet.under(name).means("ndcg@10")) / 2, 6)) for age, name in ages.items()
    }
    assert {"duet-r4", "duet-r4, shared"} <= set(texts(figure))


def test_the_chosen_epoch_of_every_seed_is_marked(variants):
    figure = plot_training(variants, SUBTITLE)

    assert points(figure.axes[0]) == {(4.0, 0.22), (5.0, 0.21)}
    assert "static\nbest at 4 to 5" in texts(figure)


def test_the_first_stage_of_a_staged_run_is_dotted():
    training = made_up().training.model_copy(update={"meta_epochs": 2})
    figure = plot_training(group_runs([made_up_duet(training=training)]), SUBTITLE)

    styles = {
        tuple(line.get_xdata()): line.get_linestyle() for line in figure.axes[0].lines if len(line.get_xdata()) > 1
    }

    assert styles == {(1, 2): ":", (3, 4, 5): "-"}
    assert any("dotted: nothing generated yet" in text for text in texts(figure))


@pytest.mark.parametrize(
    ("runs", "left_out"),
    [
        ([made_up()], {"quality-by-bytes.svg", "swap-test.svg", "staleness.svg"}),
        ([made_up_duet()], {"quality-by-bytes.svg"}),
        ([made_up(), made_up_duet(skills={"factors-r4": 1, "shared": 0})], {"staleness.svg"}),
    ],
    ids=["only a baseline", "no baseline", "no stale parameters"],
)
def test_there_is_no_plot_of_nothing(runs, left_out, tmp_path):
    drawn = draw(group_runs(runs), tmp_path, subtitle=SUBTITLE)

    assert drawn.keys() == ALL - left_out
    assert {path.name for path in tmp_path.iterdir()} == ALL - left_out


def test_names_beside_a_plot_do_not_overlap():
    runs = [made_up()]
    runs += [made_up(f"static-{number}", skills={"shared": 0.001 * number}, model="static") for number in range(6)]
    figure = plot_training(group_runs(runs), SUBTITLE)
    figure.draw_without_rendering()

    boxes = sorted((text.get_window_extent() for text in figure.axes[0].texts), key=lambda box: box.y0)

    assert len(boxes) == 7
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(boxes))
