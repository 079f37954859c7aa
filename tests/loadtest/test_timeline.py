"""Seconds add up over processes, and percentiles are of 0.1 ms."""

import json
import math
from random import Random

import pytest

from loadtest.timeline import CPU, LATENCY, Timeline, bucket_ms, quantile_ms


def test_buckets_are_a_tenth_of_a_millisecond_at_any_size():
    assert [bucket_ms(value) for value in (0.04, 0.06, 1.26, 147.31, 3456.78)] == [0.0, 0.1, 1.3, 147.3, 3456.8]


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99, 0.999, 1.0])
def test_quantiles_are_those_of_the_sorted_values(share):
    draws = Random(1)
    values = [draws.expovariate(1 / 20) for _ in range(20_000)]
    timeline = Timeline()
    for value in values:
        timeline.at(0.5).observe(LATENCY, value)

    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    assert timeline.total.quantile_ms(LATENCY, share) == pytest.approx(exact, abs=0.051)


def test_a_quantile_of_nothing_is_not_a_number():
    assert math.isnan(quantile_ms({}, 0.5))


def test_what_workers_send_adds_up_to_what_one_process_would_have_seen():
    together, apart, leader = Timeline(), [Timeline(), Timeline()], Timeline()
    for number in range(100):
        for timeline in (together, apart[number % 2]):
            second = timeline.at(number / 10)
            second.counts["due"] += 1
            second.counts["outcome/in-time"] += number % 3 > 0
            second.observe(LATENCY, number)
            second.gauge(CPU, number / 100)
        if number % 7 == 0:
            leader.merge(json.loads(json.dumps(apart[number % 2].take())))
    for worker in apart:
        leader.merge(worker.take())

    assert leader.to_json() == together.to_json()
    assert leader.end_s == 10
    assert not apart[0].seconds


def test_what_nobody_answered_is_failed_once():
    timeline = Timeline()
    timeline.at(0).counts.update({"due": 10, "dropped": 2, "outcome/in-time": 5, "outcome/late": 1})

    timeline.settle()
    timeline.settle()

    assert timeline.total.of("outcome") == {"in-time": 5, "late": 1, "failed": 2}
    assert timeline.total.of("rung") == {"failed": 2}


def test_groups_are_found_by_their_prefix():
    second = Timeline().at(0)
    second.counts.update({"plan/keep": 2, "plan/full-float16": 1, "due": 3})
    second.gauge("replicas/Gateway", 2)

    assert second.of("plan") == {"keep": 2, "full-float16": 1}
    assert second.gauges_of("replicas") == {"Gateway": 2}
