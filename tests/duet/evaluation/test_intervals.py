"""Bootstrap intervals of a mean over users."""

import numpy as np
import pytest

from duet.evaluation.intervals import mean_interval


def test_the_interval_is_that_of_the_normal_approximation_where_that_holds():
    values = np.random.default_rng(0).normal(0.3, 2.0, 4000)

    mean, low, high = mean_interval(values)

    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    assert mean == values.mean()
    assert low == pytest.approx(mean - half, abs=0.1 * half)
    assert high == pytest.approx(mean + half, abs=0.1 * half)


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    random = np.random.default_rng(1)

    held = [low <= 0.2 <= high for _, low, high in (mean_interval(random.random(60) < 0.2) for _ in range(60))]

    assert 0.85 <= np.mean(held) <= 1.0


def test_the_same_values_give_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).random(50)

    assert mean_interval(values) == mean_interval(values.copy())
    assert mean_interval(values, seed=1) != mean_interval(values)
    assert mean_interval(values, seed=1)[0] == mean_interval(values)[0]


@pytest.mark.parametrize("values", [[0.25], [0.25] * 9], ids=["one user", "equal users"])
def test_values_without_spread_have_an_interval_without_width(values):
    assert mean_interval(np.array(values)) == (0.25, 0.25, 0.25)


def test_nobody_has_no_interval():
    with pytest.raises(ValueError, match="at least one user"):
        mean_interval(np.array([]))
