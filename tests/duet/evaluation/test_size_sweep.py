"""How many times the bytes a static model needs: interpolated where it can be, and said where it cannot."""

import numpy as np
import pytest

from duet.evaluation.comparison import group_runs
from duet.evaluation.size_sweep import bytes_needed, device_bytes, needed
from tests.duet.evaluation.sweeps import duet, size_sweep, static

METRIC = "ndcg@10"
SIZES = (1000, 2000, 8000)


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        (0.05, 1000),
        (0.10, 1000),
        (0.15, 2000 / 2**0.5),
        (0.20, 2000),
        (0.25, 4000),
        (0.30, 8000),
        (0.3001, np.inf),
    ],
)
def test_bytes_are_interpolated_in_their_logarithm(quality, expected):
    assert bytes_needed(quality, SIZES, np.array([0.1, 0.2, 0.3])) == pytest.approx(expected)


def test_the_first_size_that_is_good_enough_counts_where_larger_ones_are_worse():
    qualities = np.array([0.1, 0.3, 0.2])

    assert bytes_needed(0.2, SIZES, qualities) == pytest.approx(1000 * 2**0.5)
    assert bytes_needed(0.31, SIZES, qualities) == np.inf


def test_a_generated_model_as_good_as_the_next_static_one_saves_its_bytes():
    (found,) = needed(size_sweep(1.5), METRIC)

    assert found.variant.name == "duet-d16"
    assert device_bytes(found.variant) == 4 * 16_000
    assert found.times == pytest.approx(2)
    assert found.low <= found.times <= found.high
    assert (found.smallest, found.largest) == (1, 4)


def test_the_interval_holds_the_whole_comparison():
    (between,) = needed(size_sweep(1.7), METRIC)

    assert 2 < between.times < 4
    assert between.low < between.times < between.high
    assert str(between) == f"{between.times:.1f} [{between.low:.1f}, {between.high:.1f}]"


def test_what_no_static_model_reaches_is_not_given_a_number():
    (found,) = needed(size_sweep(9.0), METRIC)

    assert (found.times, found.low, found.high) == (np.inf,) * 3
    assert str(found) == "not reached by 4.0 times the bytes"


def test_what_is_only_perhaps_reached_says_where_the_interval_begins():
    (found,) = needed(size_sweep(2.1, luck=(1,)), METRIC)

    assert found.times == np.inf
    assert np.isfinite(found.low)
    assert str(found) == f"not reached by 4.0 times the bytes; lower end of the interval: {found.low:.1f}"


def test_what_the_smallest_static_model_reaches_is_an_upper_bound():
    (found,) = needed(size_sweep(0.2), METRIC)

    assert str(found) == "at most 1.0 [at most 1.0, at most 1.0]"


def test_an_interval_may_end_where_no_static_model_was_run():
    (found,) = needed(size_sweep(1.8, luck=(1,)), METRIC)

    assert np.isfinite(found.times)
    assert str(found).endswith(", more than 4.0]")


def test_nothing_is_said_without_static_models_of_two_sizes():
    assert needed(group_runs([static(32, 1.0), duet("duet-r4", 32, 2.0)]), METRIC) == []


def test_only_seeds_that_both_have_are_compared():
    sweep = size_sweep(1.5, seeds=(0, 1))
    runs = [record for name in sweep for record in sweep[name].records if name.startswith("static")]
    one = group_runs([*runs, duet("duet-d16", 16, 1.5, seed=1), duet("duet-other", 16, 1.5, seed=7)])

    (found,) = needed(one, METRIC)

    assert found.variant.name == "duet-d16"
    assert found.times == pytest.approx(2)
