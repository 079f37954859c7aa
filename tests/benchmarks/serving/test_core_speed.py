"""The speed of a core is that of a piece of work on it, and how much it varied."""

import os
import time

import pytest

from benchmarks.serving.core_speed import CoreSpeed, pace_of


def test_the_pace_is_the_mean_time_and_the_spread_that_of_quarters_of_a_second() -> None:
    seen = [(10 + tenth / 10, 100.0 if tenth < 5 else 200.0) for tenth in range(10)]

    pace = pace_of(seen, since_s=10.0)

    # 0.0 to 0.2, 0.3 and 0.4, 0.5 to 0.7; the last quarter is not over
    assert pace == pytest.approx((400 / 3, 2.0))


def test_what_was_taken_before_says_nothing() -> None:
    seen = [(1.0, 900.0), (10.0, 100.0), (10.1, 100.0)]

    assert pace_of(seen, since_s=10.0) == pytest.approx((100.0, 1.0))
    with pytest.raises(RuntimeError, match="for longer"):
        pace_of(seen, since_s=11.0)


def test_a_core_is_watched_as_long_as_the_block_lasts() -> None:
    core = min(os.sched_getaffinity(0))

    with CoreSpeed({core}) as speed:
        pace = speed.since(0.0)
        assert os.sched_getaffinity(speed.process_id) == {core}

    assert pace.mean_us > 0
    assert not os.path.exists(f"/proc/{speed.process_id}")
    with pytest.raises(RuntimeError):
        speed.since(time.monotonic())
