"""The last item of a user is test, the one before validation; unseen users are in neither."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from duet.data.splits import leave_one_out
from duet.protocol.errors import DatasetTooSmall
from tests.duet.data.logs import numbered_log

LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=30).filter(
    lambda lengths: any(length >= 4 for length in lengths)
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(LENGTHS)
def test_held_out_items_are_the_last_two_and_the_rest_may_be_trained_on(lengths):
    log = numbered_log(lengths)

    split = leave_one_out(log)

    assert split.users.tolist() == [user for user, length in enumerate(lengths) if length >= 3]
    for user in split.users:
        sequence = log.sequence(user).tolist()
        assert split.target(user, "test") == sequence[-1]
        assert split.target(user, "validation") == sequence[-2]
        assert split.history(user, "test").tolist() == sequence[:-1]
        assert split.history(user, "validation").tolist() == sequence[:-2]
        assert split.train_lengths[user] == len(sequence) - 2


@settings(derandomize=True, deadline=None, max_examples=150)
@given(LENGTHS)
def test_users_too_short_to_evaluate_are_trained_on_whole(lengths):
    split = leave_one_out(numbered_log(lengths))

    for user, length in enumerate(lengths):
        if length < 3:
            assert split.train_lengths[user] == length
            assert user not in split.users


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.integers(2, 60), st.floats(0, 0.9), st.integers(0, 5))
def test_unseen_users_are_neither_trained_on_nor_evaluated(count, share, seed):
    log = numbered_log([5] * count)
    assume(round(share * count) < count)

    split = leave_one_out(log, unseen_share=share, seed=seed)

    assert len(split.unseen) == round(share * count)
    assert sorted([*split.users, *split.unseen]) == list(range(count))
    assert not split.train_lengths[split.unseen].any()
    assert (split.train_lengths[split.users] == 3).all()


def test_the_seed_and_nothing_else_draws_the_unseen_users():
    log = numbered_log([5] * 40)

    drawn = [leave_one_out(log, unseen_share=0.25, seed=seed).unseen.tolist() for seed in (0, 0, 1)]

    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("lengths", "share", "what"),
    [
        ([2, 2, 1], 0.0, "at least 3 interactions"),
        ([0], 0.0, "at least 3 interactions"),
        ([3, 3], 0.0, "left for training"),
        ([4, 4], 0.9, "left for training"),
        ([4, 4, 2], 0.9, "left for validation"),
    ],
    ids=["nobody long enough", "nobody did anything", "nothing to train on", "everybody unseen", "nobody to validate"],
)
def test_too_little_data_is_refused_with_what_is_missing(lengths, share, what):
    with pytest.raises(DatasetTooSmall, match=what) as caught:
        leave_one_out(numbered_log(lengths), unseen_share=share)

    assert (caught.value.count, caught.value.needed) == (0, 1)


def test_the_log_is_not_copied():
    log = numbered_log([6, 4])

    assert np.shares_memory(leave_one_out(log).history(0, "test"), log.items)
