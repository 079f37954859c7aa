"""Room follows what is answered a second and how long that may take; bursts are let in, a crowd is not."""

import pytest

from deployments.room import Room

SHARE_MS = 50.0


class Loaded:
    """Answers so many a second, of so many inside, on a clock of its own."""

    def __init__(self, *, least: int = 2, most: int = 300) -> None:
        self.now_s = 0.0
        self.room = Room(least=least, most=most, clock=lambda: self.now_s)
        self.room.learn_share(SHARE_MS)

    def answer(self, count: int, *, a_second: float) -> None:
        for _ in range(count):
            self.now_s += 1 / a_second
            self.room.learn_answer()

    def fill(self, count: int) -> None:
        for _ in range(count):
            self.room.enter()

    def let_in(self, count: int) -> int:
        """Have so many ask at one moment, and count those who find room."""
        found = 0
        for _ in range(count):
            if self.room.has_room("normal"):
                self.room.enter()
                found += 1
        return found


def test_before_anything_is_known_there_is_room_for_the_most() -> None:
    assert Loaded(most=20).let_in(100) == 20


@pytest.mark.parametrize(("a_second", "limit"), [(1000, 27.5), (4000, 110), (40, 2), (100_000, 300)])
def test_room_is_what_is_answered_in_a_part_of_the_time(a_second: float, limit: int) -> None:
    server = Loaded()
    server.fill(64)

    server.answer(8_000, a_second=a_second)

    assert server.room.limit == pytest.approx(limit, rel=0.05)


def test_the_shorter_of_two_times_counts() -> None:
    server = Loaded()
    server.fill(64)
    for _ in range(1000):
        server.room.learn_share(10_000)
        server.room.learn_share(20)

    server.answer(1000, a_second=1000)

    assert server.room.limit == pytest.approx(1000 * 0.55 * 0.04, rel=0.1)


def test_time_in_which_nobody_is_inside_does_not_count() -> None:
    server = Loaded()
    for _ in range(1000):
        server.room.enter()
        server.answer(1, a_second=1000)
        server.room.leave()
        server.now_s += 0.1

    assert server.room.limit == pytest.approx(27, abs=1)


def test_with_few_inside_it_is_not_learnt_that_less_is_possible() -> None:
    server = Loaded()
    server.fill(40)
    server.answer(1000, a_second=1000)
    for _ in range(35):
        server.room.leave()

    server.answer(1000, a_second=200)
    assert server.room.limit == 27

    server.fill(35)
    server.answer(1000, a_second=200)
    assert server.room.limit == pytest.approx(5, abs=1)


def test_a_burst_finds_more_room() -> None:
    server = Loaded()
    server.fill(1)
    server.answer(1000, a_second=1000)

    assert server.room.places("normal") == 41
    assert 1 + server.let_in(100) == 42


def test_a_crowd_that_stays_finds_the_room_that_there_is() -> None:
    server = Loaded()
    server.fill(41)
    server.answer(1000, a_second=1000)

    assert server.room.has_room("normal")
    server.now_s += 0.06
    assert not server.room.has_room("normal")  # it has been wanting for a while
    for _ in range(17):
        server.room.leave()
    assert [server.room.places(priority) for priority in ("normal", "high")] == [1, 4]
    assert server.let_in(10) == 1  # 25 of 27 is what others than the urgent ones may fill
    assert server.room.has_room("high")
    server.now_s += 1.0
    assert server.let_in(100) == 17  # nobody has been sent away for a while: this is a burst again


def test_the_patient_are_sent_away_before_the_urgent() -> None:
    server = Loaded()
    server.fill(22)
    server.answer(1000, a_second=1000)
    server.room.has_room("low")
    server.now_s += 0.06

    assert [server.room.has_room(priority) for priority in ("low", "normal", "high")] == [False, True, True]


def test_another_height_counts_at_once() -> None:
    server = Loaded(most=10)
    server.fill(9)
    server.answer(1000, a_second=1000)

    assert server.room.limit == 10
    server.room.resize(20)
    assert server.room.limit == 20


def test_one_at_a_time_is_always_let_in() -> None:
    server = Loaded(least=1)
    server.fill(1)
    server.answer(1000, a_second=1)
    server.room.leave()

    assert server.let_in(1) == 1


def test_who_asks_for_room_is_counted_whether_or_not_it_is_found() -> None:
    server = Loaded(most=1)
    for _ in range(1000):
        server.now_s += 0.002
        server.let_in(1)

    assert server.room.inside == 1
    assert server.room.offered_s == pytest.approx(500, rel=0.1)


def test_who_asks_again_is_offered_once() -> None:
    server = Loaded()

    server.room.has_room("normal")
    offered_s = server.room.offered_s

    assert server.room.has_room("normal", is_new=False)
    assert server.room.offered_s == offered_s
