"""Arrivals come at the rate that is asked for, at random, and know of nothing else."""

import math
from itertools import islice, pairwise
from random import Random

import pytest

from loadtest.arrivals import arrivals


def drawn(rate, until_s, seed=1, **options):
    return list(arrivals(rate, Random(seed), until_s, **options))


def test_the_number_in_any_stretch_is_that_of_a_poisson_process():
    counts = [0] * 100
    for due_s in drawn(lambda _: 200.0, 100.0):
        counts[int(due_s)] += 1

    mean = sum(counts) / 100
    variance = sum((count - mean) ** 2 for count in counts) / 99
    assert mean == pytest.approx(200, rel=0.03)
    # a process that paces itself has almost none
    assert variance == pytest.approx(200, rel=0.5)


def test_gaps_are_without_memory():
    gaps = [later - earlier for earlier, later in pairwise(drawn(lambda _: 50.0, 400.0))]

    assert sum(gap > 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


def test_the_rate_may_jump_and_be_zero():
    found = drawn(lambda now_s: 0.0 if 2 <= now_s < 4 else 500.0 if now_s >= 4 else 100.0, 6.0)

    assert found == sorted(found)
    assert not [due_s for due_s in found if 2.0 <= due_s < 4.0]
    assert sum(due_s < 2 for due_s in found) == pytest.approx(200, abs=5 * math.sqrt(200))
    assert sum(due_s >= 4 for due_s in found) == pytest.approx(1000, abs=5 * math.sqrt(1000))


def test_it_begins_and_ends_where_it_is_told():
    found = drawn(lambda _: 1000.0, 3.0, from_s=2.5)

    assert 2.5 <= min(found) < max(found) < 3.0
    assert len(found) == pytest.approx(500, abs=5 * math.sqrt(500))


def test_a_stream_without_end_goes_on():
    assert len(list(islice(arrivals(lambda _: 10.0, Random(1), math.inf), 1000))) == 1000


def test_a_negative_rate_is_refused():
    with pytest.raises(ValueError, match="rate of at least 0"):
        drawn(lambda _: -1.0, 1.0)
