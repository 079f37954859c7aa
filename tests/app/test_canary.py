"""A canary ends when it fails more often than the version beside it beyond chance, and not when all fail alike."""

import math
import random

import pytest

from app.canary import CanaryLimit, CanaryTrial, Tally

LIMIT = CanaryLimit(min_requests=200, margin=0.02)


def tally(requests: float, failures: float) -> Tally:
    return Tally(requests, failures)


@pytest.mark.parametrize(("failures", "requests"), [(0, 10), (1, 10), (30, 200), (10, 10)])
def test_the_bounds_are_the_rates_from_which_the_observed_one_is_just_as_far_as_allowed(
    failures: int, requests: int
) -> None:
    low, high = tally(requests, failures).bounds()

    # the definition of Wilson's interval: |p - observed| = Z * sqrt(p (1 - p) / n) at both ends
    for bound in (low, high):
        distance = abs(bound - failures / requests)
        assert distance == pytest.approx(3.29 * math.sqrt(bound * (1 - bound) / requests), abs=1e-12)
    assert low <= failures / requests <= high


def test_before_the_first_request_everything_is_possible() -> None:
    assert Tally().bounds() == (0.0, 1.0)
    assert Tally().rate == 0.0


def ended_after(
    canary_rate: float, other_rate: float, *, requests: int, share: float = 0.1, seed: int = 0
) -> int | None:
    """Run a trial with independent failures; return after how many requests of the canary it ended."""
    chance, trial, of_canary = random.Random(seed), CanaryTrial(LIMIT), 0
    while of_canary < requests:
        is_canary = chance.random() < share
        of_canary += is_canary
        if trial.count(is_canary=is_canary, is_failure=chance.random() < (canary_rate if is_canary else other_rate)):
            return of_canary
    return None


def test_a_canary_that_always_fails_ends_after_the_least_number_of_requests() -> None:
    assert ended_after(1.0, 0.0, requests=1000) == 200


@pytest.mark.parametrize(("canary_rate", "other_rate"), [(0.1, 0.0), (0.2, 0.05), (0.5, 0.3)])
def test_a_canary_that_is_clearly_worse_ends_within_two_thousand_requests(
    canary_rate: float, other_rate: float
) -> None:
    assert all(ended_after(canary_rate, other_rate, requests=2000, seed=seed) is not None for seed in range(10))


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.3, 1.0])
def test_a_canary_that_fails_as_often_as_the_others_goes_on(rate: float) -> None:
    assert all(ended_after(rate, rate, requests=3000, seed=seed) is None for seed in range(10))


def test_a_canary_that_is_worse_by_less_than_the_margin_goes_on() -> None:
    assert all(ended_after(0.025, 0.01, requests=3000, seed=seed) is None for seed in range(10))


def test_a_canary_that_turns_bad_after_a_long_good_time_ends() -> None:
    trial = CanaryTrial(LIMIT)
    for number in range(200_000):
        trial.count(is_canary=number % 10 == 0, is_failure=False)

    bad = next(
        number
        for number in range(1, 5000)
        if trial.count(is_canary=True, is_failure=True) or trial.count(is_canary=False, is_failure=False)
    )

    # of 2,000 to 4,000 requests that it remembers, few are enough
    assert bad < 200
    assert trial.canary.requests <= 4000


def test_what_nobody_can_be_compared_with_is_not_ended() -> None:
    assert ended_after(1.0, 0.0, requests=500, share=1.0) is None


def test_the_reason_names_both_rates() -> None:
    trial = CanaryTrial(CanaryLimit(min_requests=10, margin=0.02))
    for _ in range(90):
        trial.count(is_canary=False, is_failure=False)

    reasons = [trial.count(is_canary=True, is_failure=True) for _ in range(10)]

    assert reasons[:9] == [None] * 9
    assert reasons[9] == "10 of 10 requests (100.0%) failed or were late, against 0 of 90 requests (0.0%) beside it"
