"""Costs are told of every way, as ratios to fine-tuning, beside what an update takes on each link."""

import pytest

from duet.evaluation.comparison import baseline_of, families, group_runs
from duet.evaluation.cost_tables import choice_lines, cost_of, cost_table, latency_table
from duet.evaluation.plots import plot_costs
from duet.evaluation.record import read_record, write_record
from duet.protocol.budget import PROFILES
from tests.duet.evaluation.records import made_up, made_up_duet, made_up_fine_tuned
from tests.duet.evaluation.test_plots import points, texts


@pytest.fixture(scope="module")
def variants():
    runs = [make(seed=seed) for seed in (0, 1, 2) for make in (made_up, made_up_duet)]
    return group_runs([*runs, *(made_up_fine_tuned(seed=seed, slow=slow) for seed, slow in enumerate((10, 20, 400)))])


def rows(table):
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {row[0]: row for row in cells}


def test_every_way_has_its_times_and_how_many_times_cheaper_it_is(variants):
    found = rows(cost_table(variants))

    # the median seed takes 20 times as long
    assert found["fine-tuned"][1:7] == ["10", "–", "1", "–", "8.00", "–"]
    assert found["factors-r4"][1:] == ["0.5", "20", "0.05", "20", "0.40", "20", "–"]
    assert found["factors-r4 on device"][1:] == ["0.1", "100", "–", "–", "–", "–", "90.0"]


def test_what_was_chosen_is_told_for_every_seed(variants):
    text = choice_lines(variants)

    assert text.count("the classifier, 5 steps at 0.001 (0.2000, best of 1 tried on 60 users)") == 3


def test_an_update_on_every_link_stands_against_the_generator_on_the_device(variants):
    found = rows(latency_table(variants))

    assert found.keys() - {"link", "---"} == PROFILES.keys()
    size = variants["duet-r4"].records[0].sizes.update["factors-r4"]["int8"]
    for name, link in PROFILES.items():
        network_ms = float(found[name][1])
        assert link.exchange_ms(request_bytes=0, response_bytes=size) < network_ms
        assert (
            found[name][2] == f"{network_ms / 0.1:,.0f} ×"
            or abs(network_ms / 0.1 - float(found[name][2][:-2].replace(",", ""))) < 1
        )


def test_without_fine_tuning_there_is_nothing_to_tell():
    variants = group_runs([made_up(), made_up_duet()])

    assert cost_table(variants) == latency_table(variants) == ""
    assert plot_costs(variants, "made-up") is None


def test_the_plot_has_a_point_for_alone_and_one_for_many_at_once(variants):
    figure = plot_costs(variants, "made-up")

    static = variants["static"]
    gains = {name: round(variants[name].minus(static, "ndcg@10")[0], 6) for name in ("duet-r4", "fine-tuned")}
    assert points(figure.axes[0]) == {
        *((time, gains["duet-r4"]) for time in (0.5, 0.05)),
        *((time, gains["fine-tuned"]) for time in (10.0, 1.0)),
    }
    assert {"static", "duet-r4", "fine-tuned"} <= set(texts(figure))
    assert cost_of(static, variants) is None


def test_a_record_of_fine_tuning_is_read_back(tmp_path):
    record = made_up_fine_tuned()

    path = write_record(tmp_path / "paper", record)

    assert read_record(path).to_json() == record.to_json()


def test_every_backbone_is_compared_with_its_own_baseline():
    runs = [made_up(), made_up_duet(), made_up("gru4rec-static", model="static", backbone="gru4rec")]
    variants = group_runs([*runs, made_up_duet("gru4rec-duet-r4", backbone="gru4rec")])

    parts = families(variants)

    assert {name: list(part) for name, part in parts.items()} == {
        "sasrec": ["static", "duet-r4"],
        "gru4rec": ["gru4rec-static", "gru4rec-duet-r4"],
    }
    assert baseline_of(variants, "static", variants["gru4rec-duet-r4"]).name == "gru4rec-static"
    assert baseline_of(variants, "capacity-matched", variants["duet-r4"]) is None


def test_a_seed_that_was_ranked_before_int8_packages_were_is_compared_in_what_it_has():
    skills = {"factors-r4": 3.0, "shared": 1.0, "mean": 1.0, "swapped": 0.2}
    new = {"factors-r4": 3.0, "factors-r4-int8": 2.9, "shared": 1.0, "mean": 1.0, "swapped": 0.2}

    mixed = group_runs([made_up_duet(seed=0, skills=new), made_up_duet(seed=1, skills=skills)])["duet-r4"]
    both = group_runs([made_up_duet(seed=seed, skills=new) for seed in (0, 1)])["duet-r4"]

    assert mixed.served == ("factors-r4", "shared")
    assert both.served == ("factors-r4", "factors-r4-int8", "shared")
