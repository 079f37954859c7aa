"""The limit falls while answers are late, rises while it is felt and they are not, and stays within its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.admission import SHARES, ConcurrencyLimit, Priority

LEAST, MOST = 8, 100


def fill(limit: ConcurrencyLimit, priority: Priority = "high") -> int:
    """Let in as many as there is room for."""
    count = 0
    while limit.enter(priority):
        count += 1
    return count


def windows(limit: ConcurrencyLimit, count: int, *, late_share: float) -> None:
    """Answer full windows with everybody inside that may be."""
    for _ in range(count):
        fill(limit)
        answers = max(20, limit.limit)
        for number in range(answers):
            limit.leave(is_late=number < late_share * answers)
            limit.enter("high")


def test_without_a_late_answer_there_is_room_for_the_most() -> None:
    limit = ConcurrencyLimit(least=LEAST, most=MOST)

    windows(limit, 5, late_share=0)

    assert fill(limit) + limit.inside >= MOST
    assert limit.limit == MOST
    assert not limit.enter("high")


def test_late_answers_lower_it_to_the_least_and_no_further() -> None:
    limit = ConcurrencyLimit(least=LEAST, most=MOST)

    windows(limit, 1, late_share=0.06)
    first = limit.limit
    windows(limit, 40, late_share=0.06)

    assert first == 80
    assert limit.limit == LEAST


def test_a_few_late_answers_are_borne() -> None:
    limit = ConcurrencyLimit(least=LEAST, most=MOST)

    windows(limit, 40, late_share=0.04)

    assert limit.limit == MOST


def test_it_rises_again_when_answers_are_in_time() -> None:
    limit = ConcurrencyLimit(least=LEAST, most=MOST)
    windows(limit, 40, late_share=1)
    for _ in range(limit.inside):
        limit.leave(is_late=None)

    windows(limit, 60, late_share=0)

    assert limit.limit == MOST


def test_it_does_not_rise_while_few_are_inside() -> None:
    limit = ConcurrencyLimit(least=LEAST, most=MOST)
    windows(limit, 3, late_share=1)
    for _ in range(limit.inside):
        limit.leave(is_late=None)
    windows_before = limit.limit
    for _ in range(windows_before):  # the window in which it was full ends here
        limit.enter("high")
        limit.leave(is_late=True)
    before = limit.limit

    for _ in range(20 * before):
        assert limit.enter("high")
        limit.leave(is_late=False)

    assert limit.limit == before


def test_who_hangs_up_says_nothing_of_the_server() -> None:
    limit = ConcurrencyLimit(least=LEAST, most=MOST)

    for _ in range(10 * MOST):
        limit.enter("high")
        limit.leave(is_late=None)

    assert (limit.limit, limit.inside) == (MOST, 0)


def test_who_matters_more_finds_room_when_others_are_refused() -> None:
    limit = ConcurrencyLimit(least=LEAST, most=MOST)

    entered = [fill(limit, priority) for priority in ("low", "normal", "high")]

    assert entered == [70, 20, 10]
    assert list(SHARES.values()) == sorted(SHARES.values(), reverse=True)


@pytest.mark.parametrize("priority", ["low", "normal", "high"])
def test_one_at_a_time_is_always_let_in(priority: Priority) -> None:
    limit = ConcurrencyLimit(least=1, most=1)

    assert limit.enter(priority)
    assert not limit.enter(priority)


@given(st.lists(st.tuples(st.sampled_from(["enter", "late", "in time", "gone"]), st.sampled_from(list(SHARES)))))
def test_whatever_happens_it_stays_within_its_bounds(events: list[tuple[str, Priority]]) -> None:
    limit, inside = ConcurrencyLimit(least=2, most=9), 0

    for event, priority in events:
        if event == "enter":
            inside += limit.enter(priority)
        elif inside:
            inside -= 1
            limit.leave(is_late={"late": True, "in time": False, "gone": None}[event])
        assert limit.inside == inside <= 9
        assert 2 <= limit.limit <= 9


@pytest.mark.parametrize(("least", "most"), [(0, 5), (6, 5)])
def test_bounds_that_contradict_each_other_are_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match="1 <= least <= most"):
        ConcurrencyLimit(least=least, most=most)


def test_a_limit_that_was_not_felt_goes_where_the_most_goes() -> None:
    limit = ConcurrencyLimit(least=2, most=100)

    limit.resize(150)
    grown = limit.limit
    limit.resize(80)

    assert (grown, limit.limit) == (150, 80)


def test_a_limit_that_has_fallen_stays_where_lateness_put_it() -> None:
    limit = ConcurrencyLimit(least=2, most=100)
    for _ in range(100):
        limit.enter("high")
        limit.leave(is_late=True)
    fallen = limit.limit

    limit.resize(150)
    kept = limit.limit
    limit.resize(50)

    assert fallen < 100
    assert (kept, limit.limit) == (fallen, 50)


def test_a_most_below_the_least_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        ConcurrencyLimit(least=2, most=100).resize(1)
