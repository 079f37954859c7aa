"""What personalisation is worth in the synthetic worlds, by their own ground truth."""

import numpy as np
import pytest

from duet.data.headroom import headroom
from duet.data.synthetic import PRESETS, SyntheticWorld


@pytest.fixture(scope="module")
def demo():
    return headroom(SyntheticWorld(PRESETS["demo"]), devices=200, steps=2, draws=128)


@pytest.fixture(scope="module")
def tiny():
    return SyntheticWorld(PRESETS["tiny"])


def test_personalisation_has_much_to_gain_in_the_demo_world(demo):
    oracle, shared = demo.quality("oracle"), demo.quality("shared")

    assert 0.3 < oracle.ndcg < 0.55
    assert oracle.ndcg > 1.5 * shared.ndcg
    assert oracle.auc > shared.auc
    assert demo.gain("oracle", "shared").interval[0] > 0.2


def test_twenty_items_are_enough_to_win_most_of_it(demo):
    gain = demo.gain("estimated", "shared")

    assert gain.interval[0] > 0
    assert gain.value > 0.6 * demo.gain("oracle", "shared").value


def test_tastes_get_worse_with_age(demo):
    qualities = [demo.quality(name).ndcg for name in ("oracle", "stale-10", "stale-20", "stale-40")]

    assert qualities == sorted(qualities, reverse=True)
    assert demo.gain("oracle", "stale-20", "auc").interval[0] > 0


@pytest.mark.parametrize("preset", ["small", "tiny"])
def test_the_worlds_of_tests_have_headroom_too(preset):
    measured = headroom(SyntheticWorld(PRESETS[preset]), devices=120, steps=3, lags=(5, 10), window=15, draws=64)

    assert measured.gain("oracle", "shared").interval[0] > 0.05
    assert measured.gain("estimated", "shared").interval[0] > 0


def test_equal_rankings_gain_exactly_nothing(tiny):
    gain = headroom(tiny, devices=20, lags=(0,), window=10, draws=8).gain("oracle", "stale-0")

    assert (gain.value, gain.interval) == (0.0, (0.0, 0.0))


def test_the_same_seed_measures_the_same(tiny):
    first, again = (headroom(tiny, devices=20, lags=(5,), window=10, draws=8, seed=3) for _ in range(2))

    assert first == again


def test_quality_is_that_of_sorting_each_step_by_hand(tiny):
    devices = PRESETS["tiny"].devices
    measured = headroom(tiny, devices=devices, steps=1, lags=(), window=10, draws=8, seed=5)
    rng = np.random.default_rng(5)
    rng.permutation(devices)
    ndcg, auc = [], []

    for device, step in enumerate(rng.integers(10, tiny.lengths)):
        scores = tiny.oracle_scores(device, step)
        place = np.argsort(-scores).tolist().index(int(tiny.taken_items(device, step)))
        ndcg.append(1 / np.log2(place + 2) if place < 10 else 0)
        auc.append(1 - place / (np.isfinite(scores).sum() - 1))

    assert measured.quality("oracle").ndcg == pytest.approx(np.mean(ndcg))
    assert measured.quality("oracle").auc == pytest.approx(np.mean(auc))


def test_a_lag_that_no_sequence_reaches_is_refused(tiny):
    with pytest.raises(ValueError, match="more than 40 interactions"):
        headroom(tiny)
