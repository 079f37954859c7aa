"""The speed of a core is that of a piece of work on it, by quarters of a second."""

import os
import time

import pytest

from benchmarks.serving.core_speed import CoreSpeed, course_of


def test_the_pace_of_a_quarter_of_a_second_is_the_mean_of_its_times() -> None:
    seen = [(10 + tenth / 10, 100.0 if tenth < 5 else 200.0) for tenth in range(10)]

    # 0.0 to 0.2, 0.3 and 0.4, 0.5 to 0.7, 0.8 and 0.9
    assert course_of(seen, 10.0, 11.0) == [100.0, 100.0, 200.0, 200.0]
    assert course_of(seen, 10.0, 10.6) == [100.0, 100.0]
    assert course_of(seen, 10.0, 10.7) == [100.0, 100.0, 200.0]


def test_where_no_time_was_taken_the_pace_is_that_of_the_quarter_before() -> None:
    assert course_of([(10.3, 100.0), (11.1, 200.0)], 10.0, 11.25) == [100.0, 100.0, 100.0, 100.0, 200.0]


def test_what_was_taken_at_other_times_says_nothing() -> None:
    seen = [(1.0, 900.0), (10.0, 100.0), (10.1, 100.0), (20.0, 900.0)]

    assert course_of(seen, 10.0, 10.25) == [100.0]
    with pytest.raises(RuntimeError, match="for longer"):
        course_of(seen, 11.0, 12.0)


def test_a_core_is_watched_as_long_as_the_block_lasts() -> None:
    core = min(os.sched_getaffinity(0))

    with CoreSpeed({core}) as speed:
        assert speed.since(0.0) > 0
        assert os.sched_getaffinity(speed.process_id) == {core}

    assert not os.path.exists(f"/proc/{speed.process_id}")
    with pytest.raises(RuntimeError):
        speed.since(time.monotonic())
