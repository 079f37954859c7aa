"""The synthetic world: same seed, same bytes; truth above estimate above what all share."""

from dataclasses import replace

import numpy as np
import pytest

from duet.data.synthetic import FIRST_ITEM_ID, GENRES, PRESETS, SyntheticConfig, SyntheticWorld

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def tiny():
    return SyntheticWorld(TINY)


def bytes_of(world):
    data = world.interactions()
    return data.items.tobytes() + data.offsets.tobytes() + data.timestamps.tobytes() + world.tastes.tobytes()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tiny):
    assert bytes_of(tiny) == bytes_of(SyntheticWorld(TINY))
    assert bytes_of(tiny) != bytes_of(SyntheticWorld(replace(TINY, seed=1)))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_sizes_it_promises(preset):
    config = PRESETS[preset]

    data = SyntheticWorld(config).interactions()

    lengths = np.diff(data.offsets)
    assert data.user_count == config.devices
    assert data.item_count == config.items
    assert (lengths.min(), lengths.max()) == (config.min_interactions, config.max_interactions)


def test_no_device_takes_an_item_twice(tiny):
    data = tiny.interactions()

    assert all(len(set(data.sequence(user))) == len(data.sequence(user)) for user in range(data.user_count))


def test_titles_name_the_genre_and_are_unique(tiny):
    titles = tiny.titles

    assert len(set(titles)) == TINY.items
    assert {title.rsplit(" #", 1)[0] for title in titles} == set(GENRES[: TINY.genres])
    assert "Space opera #1" in titles


def test_raw_ids_are_integers_that_differ_from_indices(tiny):
    assert tiny.item_ids[0] == FIRST_ITEM_ID
    assert not set(tiny.item_ids) & set(range(TINY.items + 1))


def test_times_share_a_clock_on_which_devices_overlap(tiny):
    data = tiny.interactions()
    instant = np.quantile(data.timestamps, 0.5)
    starts, ends = data.timestamps[data.offsets[:-1]], data.timestamps[data.offsets[1:] - 1]

    within = np.diff(data.timestamps)[np.setdiff1d(np.arange(len(data.items) - 1), data.offsets[1:-1] - 1)]

    assert within.min() > 0
    assert ((starts < instant) & (instant < ends)).mean() > 0.2
    assert (starts > instant).any()


def test_scores_are_log_probabilities_without_the_items_a_device_has_had(tiny):
    data = tiny.interactions()

    for scores in (
        tiny.oracle_scores(3, 10),
        tiny.stale_scores(3, 10, 4),
        tiny.shared_scores(3, 10, draws=16),
        tiny.estimated_scores(3, 10, window=8),
    ):
        assert np.exp(scores).sum() == pytest.approx(1)
        assert set(np.flatnonzero(np.isneginf(scores)) + 1) == set(data.sequence(3)[:10].tolist())


def test_scores_of_many_steps_equal_those_of_each(tiny):
    together = tiny.estimated_scores([[0], [5]], [10, 20], window=8)

    assert together.shape == (2, 2, TINY.items)
    np.testing.assert_allclose(together[1, 0], tiny.estimated_scores(5, 10, window=8))


def test_devices_take_items_as_often_as_the_oracle_says():
    world = SyntheticWorld(replace(TINY, devices=2000))
    devices = np.arange(2000)

    for step in (0, 5, 20):
        expected = np.exp(world.oracle_scores(devices, step)).sum(axis=0)
        observed = np.bincount(world.taken_items(devices, step), minlength=TINY.items)
        deviation = (observed - expected) / np.sqrt(expected)
        assert np.square(deviation).mean() < 1.5


def test_the_oracle_explains_the_items_better_than_anything_else(tiny):
    devices, step = np.arange(TINY.devices), 20
    taken = tiny.taken_items(devices, step)

    likelihood = {
        name: scores[devices, taken].mean()
        for name, scores in {
            "oracle": tiny.oracle_scores(devices, step),
            "estimated": tiny.estimated_scores(devices, step, window=20),
            "shared": tiny.shared_scores(devices, step),
        }.items()
    }

    assert likelihood["oracle"] > likelihood["estimated"] > likelihood["shared"]


def test_stale_tastes_of_no_age_are_the_true_ones(tiny):
    np.testing.assert_array_equal(tiny.stale_scores(1, 12, 0), tiny.oracle_scores(1, 12))


def test_tastes_are_stationary_and_lose_half_in_a_half_life():
    config = replace(TINY, devices=4000, half_life=10.0)
    tastes = SyntheticWorld(config).tastes

    assert tastes[:, 0].std() == pytest.approx(1, abs=0.03)
    assert tastes[:, -1].std() == pytest.approx(1, abs=0.03)
    assert (tastes[:, 5] * tastes[:, 15]).mean() == pytest.approx(0.5, abs=0.03)


def test_what_differs_between_devices_has_the_rank_of_the_habits(tiny):
    devices = np.arange(TINY.devices)
    true, stale = tiny.oracle_scores(devices, 1), tiny.stale_scores(devices, 1, 1)
    left = np.isfinite(true).all(axis=0)

    difference = true[:, left] - stale[:, left]

    # one more for the normaliser of each row
    assert np.linalg.matrix_rank(difference, tol=1e-9) == TINY.habits + 1


def test_tastes_are_recovered_from_recent_items():
    world = SyntheticWorld(replace(PRESETS["small"], devices=200))
    devices = np.arange(200)

    estimate = world.estimate_tastes(devices, 40, window=20)

    explained = 1 - np.square(estimate - world.tastes[:, 40]).mean() / np.square(world.tastes[:, 40]).mean()
    assert explained > 0.6


def test_nothing_is_estimated_when_tastes_are_forgotten_at_once():
    world = SyntheticWorld(replace(TINY, half_life=0.01))

    np.testing.assert_allclose(world.estimate_tastes(np.arange(9), 20, window=20), 0, atol=1e-12)


def test_new_devices_are_others_of_the_same_world(tiny):
    new = tiny.with_new_devices(50, seed=1)
    known = {tuple(tiny.interactions().sequence(user)) for user in range(TINY.devices)}

    fresh = {tuple(new.interactions().sequence(user)) for user in range(50)}

    assert new.titles == tiny.titles
    assert not known & fresh
    assert not set(new.interactions().users) & set(tiny.interactions().users)


def test_samples_of_new_devices_are_raw_ids_and_depend_on_their_seed_only(tiny):
    samples = tiny.new_devices(20, seed=1)

    assert samples == SyntheticWorld(replace(TINY, devices=5)).new_devices(20, seed=1)
    assert samples != tiny.new_devices(20, seed=2)
    assert all(TINY.min_interactions <= len(sample) <= TINY.max_interactions for sample in samples)
    assert {type(item) for sample in samples for item in sample} == {int}
    assert {item for sample in samples for item in sample} <= set(tiny.item_ids)


def test_new_devices_behave_like_the_known_ones():
    world = SyntheticWorld(replace(TINY, devices=3000))
    new = world.with_new_devices(3000, seed=1)

    counts = [np.bincount(each.interactions().items, minlength=TINY.items + 1)[1:] for each in (world, new)]

    assert np.corrcoef(counts[0], counts[1])[0, 1] > 0.99


@pytest.mark.parametrize(
    ("device", "step"), [(-1, 5), (TINY.devices, 5), (0, -1), (0, TINY.max_interactions + 1), ([0, 1], [5, 99])]
)
def test_a_position_outside_the_world_is_refused(tiny, device, step):
    with pytest.raises(ValueError, match="Expected"):
        tiny.oracle_scores(device, step)


def test_the_item_to_come_has_scores_but_is_not_known(tiny):
    length = int(tiny.lengths[0])

    assert np.isneginf(tiny.oracle_scores(0, length)).sum() == length
    with pytest.raises(ValueError, match="not known"):
        tiny.taken_items(0, length)


@pytest.mark.parametrize(
    "changes",
    [{"genres": 1}, {"genres": 99}, {"items": 20}, {"min_interactions": 30}, {"devices": 0}, {"half_life": 0.0}],
    ids=str,
)
def test_an_impossible_world_is_refused(changes):
    with pytest.raises(ValueError, match="Expected"):
        replace(SyntheticConfig(**vars(TINY)), **changes)
