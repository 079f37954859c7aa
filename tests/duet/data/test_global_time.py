"""By two instants: nothing that happened after one is known before it, to anybody."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from duet.data.splits import global_time
from duet.evaluation.conditions import evaluate_run
from duet.evaluation.exams import exam_of
from duet.protocol.errors import DatasetTooSmall, InvalidData
from duet.training.config import TrainingConfig
from duet.training.loop import train
from duet.training.tasks import RankingTask, split_of
from tests.duet.data.logs import numbered_log
from tests.duet.training.test_loop import changed


def timed_log(*times):
    """Make a log of users who do something at these seconds each."""
    log = numbered_log([len(own) for own in times])
    return replace(log, timestamps=np.array([second for own in times for second in sorted(own)], np.int64))


TIMES = st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=3, max_size=20)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(TIMES, st.integers(0, 3))
def test_training_ends_where_validation_begins_and_histories_end_where_the_target_is(times, seed):
    log = timed_log(*times)
    try:
        split = global_time(log, validation_share=0.2, test_share=0.2, unseen_share=0.2, seed=seed)
    except DatasetTooSmall:
        reject()

    first, second = split.begins["validation"], split.begins["test"]
    for user in range(log.user_count):
        own = log.timestamps[log.offsets[user] : log.offsets[user + 1]]
        expected = 0 if user in split.unseen else (own < first).sum()
        assert split.train_lengths[user] == expected
        for part, begin, end in (("validation", first, second), ("test", second, np.inf)):
            is_asked = user in split.evaluated(part)
            assert is_asked == (
                user not in split.unseen and (own < begin).any() and ((own >= begin) & (own < end)).any()
            )
            if is_asked:
                place = int((own < begin).sum())
                assert split.target(user, part) == log.sequence(user)[place]
                assert split.history(user, part).tolist() == log.sequence(user)[:place].tolist()


def test_the_instants_leave_the_shares_behind_them():
    split = global_time(timed_log(range(0, 100, 2), range(1, 101, 2)), validation_share=0.1, test_share=0.2)

    assert dict(split.begins) == {"validation": 70, "test": 80}
    assert split.train_lengths.tolist() == [35, 35]
    assert "1970-01-01 00:01:10" in split.told


def test_a_log_without_times_is_refused_with_the_remedy():
    with pytest.raises(InvalidData, match=r"data\.split=leave-one-out"):
        global_time(numbered_log([5, 5]))


def test_a_configuration_asks_for_it_and_its_parts_have_users_of_their_own():
    log = timed_log([1, 2, 3, 81], [4, 5, 6, 95], range(10, 80), [84, 97])
    config = TrainingConfig.model_validate({"data": {"split": "global-time"}, "backbone": {"length": 4}})

    split = split_of(config, log)

    assert split.begins == global_time(log).begins
    assert split.evaluated("validation").tolist() != split.evaluated("test").tolist()
    inputs, targets = RankingTask(config, log).examples(1)
    trained = set(np.concatenate([inputs.numpy().ravel(), targets.numpy().ravel()]).tolist()) - {0}
    late = {
        int(item)
        for item, second in zip(log.items, log.timestamps, strict=True)
        if second >= split.begins["validation"]
    }
    assert trained
    assert not trained & late


def test_images_have_no_such_split():
    with pytest.raises(ValueError, match="devices of its own"):
        TrainingConfig.model_validate(
            {"data": {"source": "digits", "split": "global-time"}, "backbone": {"name": "cnn"}}
        )


@pytest.mark.slow
def test_a_run_is_trained_evaluated_and_told_of(tiny_config, tiny_interactions, tmp_path):
    config = changed(tiny_config, data__split="global-time", optimisation__max_epochs=1)
    split = split_of(config, tiny_interactions)

    train(config, tiny_interactions, tmp_path)
    record = evaluate_run(tmp_path, tiny_interactions)
    exam = exam_of(config, tiny_interactions)

    assert record.dataset.evaluated == len(split.evaluated("test"))
    assert len(exam) == len(split.evaluated("validation"))
    assert exam.card("SASRec", {**exam.facts, "dataset": "tiny"}, 10).protocol == split.told
