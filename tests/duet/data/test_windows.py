"""Training windows hold every training interaction as a target exactly once; evaluation samples end at the target."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet.data.splits import leave_one_out
from duet.data.windows import evaluation_samples, last_positions, training_windows
from tests.duet.data.logs import log_of, numbered_log

LOGS = st.lists(st.integers(0, 23), min_size=1, max_size=25).filter(
    lambda lengths: sum(length >= 4 for length in lengths) >= 2
)
LENGTH = st.integers(1, 9)


def _trained_users(split):
    return [user for user, length in enumerate(split.train_lengths) if length >= 2]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(LOGS, LENGTH, st.integers(0, 3), st.integers(1, 3), st.sampled_from([0.0, 0.3]))
def test_every_training_interaction_but_the_first_of_a_user_is_a_target_exactly_once(
    lengths, length, seed, epoch, share
):
    log = numbered_log(lengths)
    split = leave_one_out(log, unseen_share=share, seed=seed)

    windows = training_windows(split, length, seed=seed, epoch=epoch)

    targets = Counter(windows.targets[windows.targets != 0].tolist())
    expected = [
        item for user in _trained_users(split) for item in log.sequence(user)[1 : split.train_lengths[user]].tolist()
    ]
    assert targets == Counter(expected)
    assert windows.positions == len(expected)
    held_out = {split.target(user, part) for user in split.users for part in ("validation", "test")}
    unseen = {item for user in split.unseen for item in log.sequence(user).tolist()}
    assert not (held_out | unseen) & {*windows.targets.ravel().tolist(), *windows.inputs.ravel().tolist()}


@settings(derandomize=True, deadline=None, max_examples=150)
@given(LOGS, LENGTH, st.integers(0, 3))
def test_the_context_of_a_target_is_what_the_same_user_did_before_it(lengths, length, seed):
    split = leave_one_out(numbered_log(lengths))
    log = split.interactions
    owner = np.repeat(np.arange(log.user_count), np.diff(log.offsets))

    windows = training_windows(split, length, seed=seed, epoch=1)

    assert windows.inputs.shape == windows.targets.shape == (len(windows.inputs), length)
    for inputs, targets in zip(windows.inputs.tolist(), windows.targets.tolist(), strict=True):
        count = sum(item != 0 for item in inputs)
        assert count >= 1
        assert inputs[count:] == targets[count:] == [0] * (length - count)
        # an item is the number of its interaction: a context without gaps, each target right after its input
        assert inputs[:count] == list(range(inputs[0], inputs[0] + count))
        assert targets[:count] == [item + 1 for item in inputs[:count]]
        assert len({owner[item - 1] for item in (*inputs[:count], targets[count - 1])}) == 1


def test_items_that_come_back_are_targets_as_often_as_they_occur():
    sequence = [3, 3, 1, 3, 3, 2, 1]
    split = leave_one_out(log_of([sequence], items=3))

    windows = training_windows(split, 8, seed=0, epoch=2)

    assert Counter(windows.targets[windows.targets != 0].tolist()) == Counter(sequence[1:5])
    assert Counter(windows.inputs[windows.inputs != 0].tolist()) == Counter(sequence[0:4])


def test_windows_depend_on_seed_and_epoch_alone():
    split = leave_one_out(numbered_log([30] * 20))

    def windows(seed, epoch):
        made = training_windows(split, 7, seed=seed, epoch=epoch)
        return made.inputs.tobytes() + made.targets.tobytes()

    assert windows(0, 1) == windows(0, 1)
    assert len({windows(seed, epoch) for seed in range(2) for epoch in range(1, 4)}) == 6


def test_over_epochs_an_interaction_is_predicted_from_contexts_of_every_length():
    split = leave_one_out(numbered_log([30]))
    target, lengths = 15, set()

    for epoch in range(200):
        windows = training_windows(split, 5, seed=0, epoch=epoch)
        lengths |= set((np.argwhere(windows.targets == target)[:, 1] + 1).tolist())

    assert lengths == {1, 2, 3, 4, 5}


def test_windows_come_in_random_order():
    split = leave_one_out(numbered_log([12] * 50))

    firsts = training_windows(split, 5, seed=0, epoch=1).inputs[:, 0]

    assert abs(np.corrcoef(firsts, np.arange(len(firsts)))[0, 1]) < 0.3


@pytest.mark.parametrize("part", ["validation", "test"])
def test_evaluation_samples_are_the_last_items_before_the_target(part):
    split = leave_one_out(numbered_log([9, 3, 5]))

    samples = evaluation_samples(split, split.users, part, 4)

    for user, sample in zip(split.users, samples.tolist(), strict=True):
        expected = split.history(user, part).tolist()[-4:]
        assert sample == expected + [0] * (4 - len(expected))
        assert sample[len(expected) - 1] == split.target(user, part) - 1


@pytest.mark.parametrize(
    ("lag", "expected"), [(0, [4, 5, 6, 7]), (2, [2, 3, 4, 5]), (5, [1, 2, 0, 0]), (99, [1, 0, 0, 0])]
)
def test_stale_samples_leave_out_the_newest_items_but_never_the_last_one(lag, expected):
    split = leave_one_out(numbered_log([9]))

    assert evaluation_samples(split, split.users, "validation", 4, lag=lag).tolist() == [expected]


def test_last_positions_point_at_the_newest_item_of_each_sample():
    samples = np.array([[5, 0, 0], [1, 2, 3], [4, 4, 0], [0, 0, 0]], np.int32)

    assert last_positions(samples).tolist() == [0, 5, 7, 9]
