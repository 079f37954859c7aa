"""Plans: the best quality that arrives in time, over links whose arithmetic can be checked by hand."""

import math

import pytest

from duet.protocol.budget import (
    PROFILES,
    REQUEST_HEADER_BYTES,
    RESPONSE_HEADER_BYTES,
    Link,
    Offer,
    choose_plan,
)
from duet.protocol.errors import BudgetTooSmall
from duet.protocol.representation import SHARED, Representation

FULL, RANK_4, RANK_1 = (Representation.parse(name) for name in ("full-float32", "factors-r4-int8", "factors-r1-int8"))
OFFERS = [Offer(FULL, 40_000, 0.30), Offer(RANK_4, 1_000, 0.28), Offer(RANK_1, 400, 0.25), Offer(SHARED, 64, 0.20)]


def plan(offers=OFFERS, *, link=PROFILES["lte"], budget_ms=200.0, upload_bytes=200, server_ms=5.0):
    return choose_plan(offers, link=link, budget_ms=budget_ms, upload_bytes=upload_bytes, server_ms=server_ms)


def test_the_named_links_are_those_of_the_architecture():
    rates = {name: (link.down_kbps, link.up_kbps, link.rtt_ms) for name, link in PROFILES.items()}

    assert rates == {
        "slow-3g": (400, 400, 400),
        "slow-4g": (1600, 750, 150),
        "fast-4g": (9000, 1500, 60),
        "lte": (12000, 6000, 70),
        "wifi": (30000, 15000, 2),
        "5g": (200000, 21000, 30),
    }


def test_transfer_times_follow_from_bytes_and_rates():
    link = Link(down_kbps=800, up_kbps=400, rtt_ms=50)

    assert link.download_ms(1000) == 10
    assert link.upload_ms(1000) == 20
    assert link.network_ms(1000, 1000) == 80
    with_headers = link.network_ms(1000 + REQUEST_HEADER_BYTES, 1000 + RESPONSE_HEADER_BYTES)
    assert link.exchange_ms(request_bytes=1000, response_bytes=1000) == with_headers


@pytest.mark.parametrize(
    "rates",
    [
        *[(0, 1, 1), (1, -1, 1), (1, 1, -1), (math.inf, 1, 1), (1, math.nan, 1), (1, 1, math.nan)],
        *[(5e-324, 1, 1), (1, 1e-300, 1), (0.099, 1, 1), (1, 1.1e9, 1)],
    ],
)
def test_a_link_that_cannot_be_is_refused(rates):
    with pytest.raises(ValueError, match="Expected rates of"):
        Link(*rates)


def test_the_best_quality_that_fits_is_chosen():
    assert plan(budget_ms=200).representation == FULL
    assert plan(link=PROFILES["slow-4g"], budget_ms=200).representation == RANK_4


def test_a_plan_says_what_it_predicted():
    chosen = plan([Offer(RANK_4, 1_000, 0.28)], link=Link(800, 400, 50), upload_bytes=100, server_ms=7.0)

    network_ms = 50 + (100 + REQUEST_HEADER_BYTES) * 8 / 400 + (1_000 + RESPONSE_HEADER_BYTES) * 8 / 800
    assert (chosen.network_ms, chosen.server_ms) == (network_ms, 7.0)
    assert chosen.predicted_ms == network_ms + 7.0 <= chosen.budget_ms == 200
    assert (chosen.package_bytes, chosen.quality) == (1_000, 0.28)


def test_a_plan_that_takes_exactly_the_budget_fits():
    needed_ms = plan([OFFERS[0]], budget_ms=10_000).predicted_ms

    assert plan([OFFERS[0]], budget_ms=needed_ms).fits


def test_the_time_of_the_server_may_depend_on_the_representation():
    slow_full = {FULL: 500.0, RANK_4: 5.0, RANK_1: 1.0}

    assert plan(server_ms=slow_full.__getitem__).representation == RANK_4


def test_ties_go_to_the_fewer_bytes():
    assert plan([Offer(FULL, 40_000, 0.28), Offer(RANK_4, 1_000, 0.28)]).representation == RANK_4


def test_a_metric_may_be_better_when_lower():
    offers = [Offer(FULL, 40_000, 1.0, higher_is_better=False), Offer(RANK_4, 1_000, 2.0, higher_is_better=False)]

    assert plan(offers).representation == FULL


def test_shared_is_chosen_only_when_nothing_else_is_accepted():
    best_shared = [Offer(SHARED, 64, 0.99), Offer(RANK_1, 400, 0.25)]

    assert plan(best_shared).representation == RANK_1
    assert plan([Offer(SHARED, 64, 0.20)]).representation == SHARED


def test_a_budget_that_only_shared_would_fit_is_too_small():
    link = Link(down_kbps=8, up_kbps=8000, rtt_ms=0)

    with pytest.raises(BudgetTooSmall) as caught:
        plan(link=link, budget_ms=800, server_ms=0.0)

    fastest_ms = link.exchange_ms(request_bytes=200, response_bytes=400)
    assert caught.value.budget_ms == 800
    assert fastest_ms <= caught.value.smallest_ms < fastest_ms + 2


def test_the_smallest_budget_that_an_error_names_is_enough():
    with pytest.raises(BudgetTooSmall) as caught:
        plan(budget_ms=1)

    smallest_ms = caught.value.smallest_ms
    assert smallest_ms == int(smallest_ms)
    assert plan(budget_ms=smallest_ms).fits


def test_it_is_enough_although_naming_it_makes_the_request_longer():
    link = Link(down_kbps=400, up_kbps=10, rtt_ms=0)
    named = len('"budget_ms": 10000, ')

    for upload_bytes in range(100, 120):
        with pytest.raises(BudgetTooSmall) as caught:
            plan(link=link, budget_ms=1, upload_bytes=upload_bytes)
        assert plan(link=link, budget_ms=caught.value.smallest_ms, upload_bytes=upload_bytes + named).fits


@pytest.mark.parametrize("offers", [[], [Offer(FULL, 1, 1.0), Offer(RANK_1, 1, 1.0, higher_is_better=False)]])
def test_offers_that_cannot_be_compared_are_a_programming_mistake(offers):
    with pytest.raises(ValueError, match="Expected at least one offer"):
        plan(offers)
