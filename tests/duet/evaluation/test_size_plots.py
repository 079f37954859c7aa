"""Plots of sizes stand on the records, and there is none of what was not varied."""

import xml.etree.ElementTree as ET

import pytest

from duet.evaluation.comparison import group_runs
from duet.evaluation.size_plots import draw_sizes, plot_device_sizes, plot_generator_sizes
from duet.evaluation.size_sweep import needed
from tests.duet.evaluation.records import made_up, made_up_duet
from tests.duet.evaluation.sweeps import duet, size_sweep, static
from tests.duet.evaluation.test_plots import points, texts

SUBTITLE = "made-up, 2 seeds"


@pytest.fixture(scope="module")
def sweep():
    return size_sweep(1.3, 1.7, 2.5)


@pytest.fixture(scope="module")
def clouds():
    """Three widths at one window, one at another, and the paper's encoder."""
    runs = [static(32, 1.0), duet("duet-r4", 32, 1.5)]
    for width in (16, 32, 64):
        options = {"encoder": "gru4rec", "encoder_width": width}
        runs.append(duet(f"cloud-w{width}", 32, 1 + width / 40, generator=1000 * width, length=100, **options))
    runs.append(duet("cloud-long", 32, 2.0, generator=64_000, length=200, encoder="gru4rec"))
    runs.append(duet("duet-d64", 64, 2.5, generator=9000))
    return group_runs(runs)


def test_static_and_generated_models_stand_at_the_bytes_on_the_device(sweep):
    figure = plot_device_sizes(sweep, SUBTITLE)

    assert points(figure.axes[0]) == {
        (4000 * width, round(sweep[name].interval("ndcg@10")[0], 6))
        for width in (16, 32, 64)
        for name in ("static" if width == 32 else f"static-d{width}", f"duet-d{width}")
    }
    found = needed(sweep, "ndcg@10")
    assert {"static", "duet-d16", f"{found[0].times:.1f} ×", "64 kB", "256 kB"} <= set(texts(figure))


def test_device_models_of_other_generators_are_other_lines():
    sweep = size_sweep(1.3, 1.7)
    runs = [record for variant in sweep.values() for record in variant.records]
    runs += [duet(f"cloud-d{width}", width, 2.0, seed=s, length=100) for width in (16, 32) for s in (0, 1)]

    figure = plot_device_sizes(group_runs(runs), SUBTITLE)

    assert {"static", "duet-d16", "cloud-d16"} <= set(texts(figure))


def test_generators_stand_at_their_bytes_and_gains_a_line_a_window(clouds):
    figure = plot_generator_sizes(clouds, SUBTITLE)

    names = {"duet-r4": 5000, "cloud-w16": 16_000, "cloud-w32": 32_000, "cloud-w64": 64_000, "cloud-long": 64_000}
    assert points(figure.axes[0]) == {
        (4 * size, round(clouds[name].under("own").minus(clouds["static"], "ndcg@10")[0], 6))
        for name, size in names.items()
    }
    assert {"last 100 items,\nits own vectors", "20 kB", "cloud-long", "duet-r4", "static"} <= set(texts(figure))


def test_the_same_records_make_the_same_files(sweep, tmp_path):
    first = draw_sizes(sweep, tmp_path / "a", subtitle=SUBTITLE)
    draw_sizes(sweep, tmp_path / "b", subtitle=SUBTITLE)

    (name,) = first
    data = (tmp_path / "a" / name).read_bytes()
    assert name == "quality-by-model-bytes.svg"
    assert data == (tmp_path / "b" / name).read_bytes()
    assert ET.fromstring(data).tag.endswith("svg")


@pytest.mark.parametrize("runs", [[made_up()], [made_up(), made_up_duet()], [made_up_duet()]], ids=len)
def test_there_is_no_plot_of_what_was_not_varied(runs, tmp_path):
    assert draw_sizes(group_runs(runs), tmp_path / "plots", subtitle=SUBTITLE) == {}
    assert not (tmp_path / "plots").exists()
