"""Rates and quantiles come from the differences of two scrapes, and from the times at which values were read."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.commands.top.numbers import Numbers, numbers_of, quantile
from app.commands.top.scrape import Snapshot, parse
from deployments.metrics import MS_BOUNDS
from tests.app.commands.top.exposition import Replica


def windowed(before: str, after: str, model: str | None = None) -> Numbers:
    return numbers_of(parse([before]), parse([after]), now_s=1012.0, model=model)


def test_only_what_happened_in_the_window_counts() -> None:
    replica = Replica()
    replica.answer(1000, server_ms=500.0)
    before = replica.text(1000.0)
    replica.answer(60, server_ms=7.0)
    replica.answer(20, server_ms=30.0, reason="overloaded")
    replica.answer(20, is_kept=True, plan="", batch_size=0)
    numbers = windowed(before, replica.text(1010.0))

    assert numbers.window_s == 10
    assert numbers.age_s == 2
    assert numbers.requests == pytest.approx(10)
    assert numbers.rungs == {"plan": 6, "refused": 2, "keep": 2}
    assert numbers.goodput == pytest.approx(8)
    assert numbers.refusals == {"overloaded": 2}
    assert numbers.plans == {"factors-r4-int8": 6}
    assert numbers.response_bytes == pytest.approx(8000)
    assert 6 < (numbers.server["p50"] or 0) <= (numbers.server["p99"] or 0) <= 8
    assert 25 < (numbers.refused["p50"] or 0) <= 30
    assert 2 < (numbers.stages["generate"]["p95"] or 0) <= 3


def test_late_answers_are_no_goodput_and_unmet_deadlines_are_told() -> None:
    replica = Replica()
    before = replica.text(1000.0)
    replica.answer(10)
    replica.answer(5, server_ms=51.0)
    replica.answer(5, reason="deadline_exceeded", batch_size=0)
    numbers = windowed(before, replica.text(1010.0))

    assert (numbers.requests, numbers.goodput, numbers.late, numbers.missed) == (2.0, 1.0, 0.5, 0.5)
    assert (numbers.slack["p5"] or 0) < 0


def test_rates_of_replicas_add_up_each_by_its_own_time() -> None:
    one, other = Replica("a1"), Replica("b2")
    before = one.text(1000.0) + other.text(1000.0)
    one.answer(40)
    other.answer(40)
    numbers = windowed(before, one.text(1010.0) + other.text(1004.0))

    assert numbers.requests == pytest.approx(4 + 10)
    assert numbers.gateways == 2


def test_without_an_earlier_scrape_the_window_is_the_life_of_the_server() -> None:
    replica = Replica(started_s=1000.0)
    replica.answer(50)

    numbers = numbers_of(Snapshot(), parse([replica.text(1010.0)]), now_s=1010.0)

    assert numbers.window_s == 10
    assert numbers.requests == pytest.approx(5)


def test_predictions_that_were_off_are_a_share_of_the_generated_answers() -> None:
    replica = Replica()
    replica.answer(3, server_ms=7.0)
    replica.answer(1, server_ms=40.0)

    numbers = windowed(Replica().text(1000.0), replica.text(1010.0))

    assert numbers.dishonest_share == 0.25
    assert 30 < (numbers.prediction_error["p99"] or 0) <= 35


def test_one_model_can_be_looked_at() -> None:
    replica = Replica()
    replica.answer(10)
    replica.answer(30, model="films")

    numbers = windowed(Replica().text(1000.0), replica.text(1010.0), model="films")

    assert numbers.requests == pytest.approx(3)
    assert numbers.versions == {}


def test_two_versions_are_seen_while_gateways_change_over() -> None:
    one, other = Replica("a1"), Replica("b2")
    other.metrics.active.reset()
    other.metrics.active.set("demo", "v2", value=1)

    numbers = numbers_of(Snapshot(), parse([one.text(1.0), other.text(1.0)]), now_s=2.0)

    assert numbers.versions == {"demo": ("v1", "v2")}


def test_nothing_is_no_number() -> None:
    numbers = numbers_of(Snapshot(), Snapshot(), now_s=1.0)

    assert numbers.server == {"p50": None, "p95": None, "p99": None}
    assert (numbers.requests, numbers.batch_mean, numbers.dishonest_share) == (0, None, None)


@given(st.lists(st.floats(0.01, 4000), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.95, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_value_it_estimates(values: list[float], share: float) -> None:
    buckets = {bound: float(sum(value <= bound for value in values)) for bound in (*MS_BOUNDS, math.inf)}

    estimate = quantile(buckets, share)

    exact = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    upper = min(bound for bound in buckets if exact <= bound)
    lower = max((bound for bound in buckets if bound < exact), default=0.0)
    assert estimate is not None
    assert lower <= estimate <= upper


def test_a_quantile_above_all_bounds_is_the_largest_bound() -> None:
    assert quantile({1.0: 0.0, 5.0: 0.0, math.inf: 3.0}, 0.5) == 5.0


def test_buckets_that_were_not_read_at_one_instant_are_no_error() -> None:
    assert quantile({1.0: 4.0, 2.0: 3.0, 5.0: 8.0, math.inf: 8.0}, 0.9) == pytest.approx(4.4)
