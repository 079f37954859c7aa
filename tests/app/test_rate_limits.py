"""A token bucket lets a burst through, then its rate, says when to come back, and is forgotten with its holder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rate_limits import Rate, RateLimits
from duet.protocol.access_errors import RateLimited


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def passed(limits: RateLimits, rate: Rate, count: int, holder: str = "a") -> int:
    done = 0
    for _ in range(count):
        try:
            limits.take(holder, rate)
        except RateLimited:
            continue
        done += 1
    return done


def test_a_burst_passes_and_then_one_request_for_each_token() -> None:
    clock, rate = Clock(), Rate(per_s=2, burst=5)
    limits = RateLimits(clock)

    assert passed(limits, rate, 10) == 5
    clock.now += 1
    assert passed(limits, rate, 10) == 2
    clock.now += 1000
    assert passed(limits, rate, 10) == 5


def test_the_refusal_says_when_the_next_token_is_there() -> None:
    clock, rate = Clock(), Rate(per_s=0.5, burst=1)
    limits = RateLimits(clock)
    limits.take("a", rate)
    clock.now += 0.5

    with pytest.raises(RateLimited) as refusal:
        limits.take("a", rate)

    assert refusal.value.retry_after_s == pytest.approx(1.5)
    clock.now += refusal.value.retry_after_s
    limits.take("a", rate)


def test_one_holder_does_not_use_up_what_another_has() -> None:
    limits, rate = RateLimits(Clock()), Rate(per_s=1, burst=1)
    limits.take("a", rate)

    limits.take("b", rate)

    assert passed(limits, rate, 1) == 0


def test_a_lower_rate_counts_at_once() -> None:
    limits = RateLimits(Clock())
    limits.take("a", Rate(per_s=1, burst=100))

    assert passed(limits, Rate(per_s=1, burst=3), 10) == 3


def test_who_is_not_kept_is_forgotten() -> None:
    limits, rate = RateLimits(Clock()), Rate(per_s=1, burst=1)
    for holder in "abc":
        limits.take(holder, rate)

    limits.keep({"a"})

    assert len(limits) == 1
    assert passed(limits, rate, 1, "a") == 0
    assert passed(limits, rate, 1, "b") == 1


@given(
    per_s=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    pauses_s=st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_no_span_of_time_sees_more_than_burst_and_rate_allow(per_s: float, burst: int, pauses_s: list[float]) -> None:
    clock, rate = Clock(), Rate(per_s, burst)
    limits, times = RateLimits(clock), []

    for pause_s in pauses_s:
        clock.now += pause_s
        if passed(limits, rate, 1):
            times.append(clock.now)

    for first, start_s in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + per_s * (times[last] - start_s) + 1e-6


@pytest.mark.parametrize(("per_s", "burst"), [(0, 1), (-1, 1), (float("inf"), 1), (float("nan"), 1), (1, 0)])
def test_a_rate_that_lets_nobody_or_everybody_in_is_a_mistake(per_s: float, burst: int) -> None:
    with pytest.raises(ValueError, match="finite rate"):
        Rate(per_s, burst)
