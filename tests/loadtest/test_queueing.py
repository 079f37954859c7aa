"""The simulated replica: against formulas where there are some, and more load is never quicker."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.queueing import UTILISATIONS, ServiceTimes, WaitCurve, simulate

DEMO = ServiceTimes(0.25, 0.32, 0.1, tuple(float(each) for each in np.linspace(-0.1, 0.1, 9)))


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_batches_of_one_wait_as_in_a_queue_of_constant_service(utilisation):
    times = ServiceTimes(0.75, 0.25, 0.5, max_batch=1)

    answered_ms = simulate(times, 1000 * utilisation, requests=200_000)

    # Pollaczek and Khinchine, M/D/1
    wait_ms = utilisation / (2 * (1 - utilisation))
    assert answered_ms.mean() - 1.5 == pytest.approx(wait_ms, rel=0.05)


@pytest.mark.parametrize("utilisation", [0.3, 0.6])
def test_disturbances_wait_as_in_a_queue_of_general_service(utilisation):
    times = ServiceTimes(0.0, 1.0, 0.0, (-0.5,) * 9 + (4.5,), max_batch=1)

    answered_ms = simulate(times, 1000 * utilisation, requests=300_000)

    # Pollaczek and Khinchine, M/G/1; the mean of the squares is 0.9 * 0.5^2 + 0.1 * 5.5^2
    wait_ms = utilisation * (0.9 * 0.25 + 0.1 * 30.25) / (2 * (1 - utilisation))
    assert answered_ms.mean() - 1.0 == pytest.approx(wait_ms, rel=0.1)


def test_an_idle_replica_takes_a_batch_of_one():
    assert np.allclose(simulate(ServiceTimes(2.0, 1.0, 0.5), 0.001, requests=200), 3.5)


def test_who_comes_during_a_batch_leaves_with_the_next_one():
    # a batch takes 10 ms whoever is in it, so nobody waits for more than the one that runs
    times = ServiceTimes(10.0, 0.0, max_batch=10_000)

    answered_ms = simulate(times, 5000, requests=20_000)

    assert answered_ms.min() >= 10
    assert answered_ms.max() <= 20
    assert answered_ms.mean() == pytest.approx(15, rel=0.02)


def test_beyond_the_capacity_the_queue_grows_with_the_run():
    answered_ms = simulate(DEMO, 1.2 * DEMO.capacity_rps)

    assert answered_ms[-1] > 10 * answered_ms[0]


def test_one_seed_gives_one_result_and_another_seed_another():
    same = [simulate(DEMO, 1000, requests=500, seed=seed) for seed in (3, 3, 4)]

    assert np.array_equal(same[0], same[1])
    assert not np.array_equal(same[0], same[2])


def test_a_long_batch_is_disturbed_as_often_as_the_single_requests_that_take_as_long():
    # every single request 1 ms late or 1 ms early: over 64 of them that is 8 ms, not 64 and not 1
    times = ServiceTimes(0.0, 1.0, 0.0, (-1.0, 1.0))

    answered_ms = simulate(times, 0.97 * times.capacity_rps, requests=60_000)
    alone = simulate(ServiceTimes(0.0, 1.0), 0.97 * times.capacity_rps, requests=60_000)

    assert 1.2 * alone.mean() < answered_ms.mean() < 4 * alone.mean()


@settings(max_examples=8, deadline=None)
@given(
    batch_ms=st.floats(0, 20),
    request_ms=st.floats(0.05, 5),
    share=st.sampled_from([0.5, 0.95, 0.99]),
    limits=st.tuples(st.floats(1, 500), st.floats(1, 500)),
)
def test_more_time_never_means_less_load_and_more_load_never_less_time(batch_ms, request_ms, share, limits):
    curve = WaitCurve.of(ServiceTimes(batch_ms, request_ms), requests=1500, seeds=(0,))

    times_ms = [curve.quantile_ms(each, share) for each in UTILISATIONS]
    loads = [curve.utilisation_within(limit, share) for limit in sorted(limits)]

    assert times_ms == sorted(times_ms)
    assert loads == sorted(loads)
    for limit, load in zip(sorted(limits), loads, strict=True):
        if load > 0:
            assert curve.quantile_ms(load, share) <= limit * 1.0001
            assert curve.share_within(load, limit) >= share - 0.002


def test_a_faster_replica_carries_as_many_times_more():
    faster = DEMO.faster(2.0)

    assert faster.capacity_rps == pytest.approx(2 * DEMO.capacity_rps)
    assert faster.one_ms == pytest.approx(DEMO.one_ms / 2)
    assert faster.disturbances_ms[0] == DEMO.disturbances_ms[0] / 2


def test_beyond_what_is_simulated_there_is_no_promise():
    curve = WaitCurve.of(ServiceTimes(1.0, 1.0), requests=1500, seeds=(0,))

    assert curve.quantile_ms(0.999, 0.5) == float("inf")
    assert curve.utilisation_within(0.5, 0.99) == 0.0


@pytest.mark.parametrize("wrong", [{"batch_ms": -1.0}, {"batch_ms": 0.0, "request_ms": 0.0}, {"max_batch": 0}])
def test_impossible_times_are_refused(wrong):
    with pytest.raises(ValueError, match="Expected times"):
        ServiceTimes(**{"batch_ms": 1.0, "request_ms": 1.0} | wrong)
