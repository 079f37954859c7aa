"""The estimate finds the line behind the batches that ran, and stays sane where they say little."""

import pytest

from deployments.compute_estimate import ComputeEstimate


def learnt(*batches: tuple[int, float]) -> ComputeEstimate:
    estimate = ComputeEstimate()
    for size, elapsed_ms in batches:
        estimate.observe(size, elapsed_ms)
    return estimate


def test_there_is_a_guess_before_the_first_batch() -> None:
    assert 0 < ComputeEstimate().predict_ms(1) < 50


def test_cost_a_device_and_cost_a_batch_are_told_apart() -> None:
    estimate = learnt(*[(size, 2.0 + 0.5 * size) for size in (1, 4, 16, 2, 32) * 20])

    assert estimate.predict_ms(64) == pytest.approx(34.0)
    assert estimate.predict_ms(1) == pytest.approx(2.5)


def test_one_size_only_predicts_in_proportion_above_it_and_no_less_below() -> None:
    estimate = learnt(*[(4, 10.0)] * 5)

    assert estimate.predict_ms(8) == pytest.approx(20.0)
    assert estimate.predict_ms(1) == pytest.approx(10.0)


@pytest.mark.parametrize(
    "batches", [[(1, 20.0), (32, 10.0)], [(10, 1.0), (11, 9.0)]], ids=["falling", "steeper-than-proportional"]
)
def test_noise_never_makes_a_prediction_negative(batches: list[tuple[int, float]]) -> None:
    estimate = learnt(*batches * 10)

    assert all(estimate.predict_ms(size) >= 0 for size in (1, 5, 64))


def test_old_batches_fade() -> None:
    estimate = learnt(*[(1, 100.0)] * 100, *[(1, 10.0)] * 100)

    assert estimate.predict_ms(1) == pytest.approx(10.0, rel=0.1)


def test_silence_makes_one_slow_batch_forgotten() -> None:
    estimate = learnt((1, 2000.0))

    for _ in range(6):
        estimate.observe(1, 2.0, silence_s=1.0)

    assert estimate.predict_ms(1) < 50


@pytest.mark.parametrize("times", [1.7, 0.6])
def test_a_core_that_changes_its_speed_is_followed_within_a_few_batches(times: float) -> None:
    sizes = (4, 16, 2, 32) * 25
    estimate = learnt(*[(size, 2.0 + 0.5 * size) for size in sizes])

    for size in sizes[:6]:
        estimate.observe(size, times * (2.0 + 0.5 * size))

    assert estimate.predict_ms(8) == pytest.approx(times * 6.0, rel=0.15)


def test_one_long_pause_does_not_shut_everybody_out() -> None:
    estimate = learnt(*[(size, 1.0 + 0.1 * size) for size in (1, 4, 2) * 20], (1, 3000.0))

    assert estimate.predict_ms(1) < 3.0


def test_a_machine_that_stays_slow_is_followed() -> None:
    estimate = learnt(*[(1, 1.0)] * 100, *[(1, 100.0)] * 40)

    assert estimate.predict_ms(1) > 60.0
