"""Arrivals are counted over a tenth of a second; the guard is exceeded rarely, and never shuts everybody out."""

import random

import pytest

from deployments.compute_estimate import ComputeEstimate
from deployments.forecast import ArrivalRate, PredictionGuard, WorkAround


def test_a_steady_stream_has_its_rate_and_a_silence_fades() -> None:
    rate = ArrivalRate()
    for number in range(2000):
        rate.note(number / 500)

    assert rate.at(4.0) == pytest.approx(500, rel=0.02)
    assert rate.at(5.0) < 1
    assert ArrivalRate().at(3.0) == 0


def test_nearly_no_request_takes_longer_than_the_guard_allows() -> None:
    guard, draws, exceeded = PredictionGuard(), random.Random(0), 0
    for number in range(20_000):
        error_ms = draws.gauss(1, 4)
        exceeded += number >= 5000 and error_ms > guard.beyond(1000)
        guard.learn(error_ms)

    assert exceeded / 15_000 < 0.01
    assert 5 < guard.beyond(1000) < 25


def test_where_predictions_are_right_nothing_is_held_back() -> None:
    guard = PredictionGuard()
    for _ in range(1000):
        guard.learn(-0.5)

    assert guard.beyond(1000) == 0


def test_a_stall_does_not_shut_everybody_out() -> None:
    guard = PredictionGuard()
    for _ in range(100):
        guard.learn(5000)

    assert guard.beyond(4) == 2


def test_a_noisy_cost_takes_longer_at_times_than_a_steady_one() -> None:
    steady, noisy, draws = ComputeEstimate(), ComputeEstimate(), random.Random(0)
    over = 0
    for number in range(2000):
        size = 1 + number % 8
        over += number > 100 and (took_ms := 3 * size * draws.lognormvariate(0, 0.2)) > noisy.upper_ms(size)
        steady.observe(size, 3.0 * size)
        noisy.observe(size, took_ms if number > 100 else 3.0 * size)

    assert steady.upper_ms(4) == pytest.approx(12, rel=0.01)
    assert noisy.upper_ms(4) > 1.2 * noisy.predict_ms(4)
    assert over / 1900 < 0.08


def test_the_work_around_batches_is_learnt_by_how_many_are_inside() -> None:
    around = WorkAround()
    for _ in range(300):
        around.learn(1, 0.2)
        around.learn(20, 8.0)

    assert around.predict_ms(1) == pytest.approx(0.2, rel=0.05)
    assert around.predict_ms(16) == around.predict_ms(31) == pytest.approx(8.0, rel=0.05)
    assert around.predict_ms(300) == 0.0


def test_one_pause_says_little_of_the_work_around_batches() -> None:
    around = WorkAround()

    around.learn(1, 8000.0)
    assert around.predict_ms(1) == pytest.approx(0.1)
    around.learn(1, -8000.0)
    around.learn(1, -8000.0)
    assert around.predict_ms(1) == 0.0
