"""A stage's backlog predicts waits from running costs, measures how busy it is, and knows a stuck worker."""

import math
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.backlog import BUSY, LOAD, QUEUE, WAIT, Backlog
from duet.protocol.errors import UnknownModel


class Clock:
    """Stands still unless told."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backlog(clock: Clock) -> Backlog:
    return Backlog(clock)


def run(backlog: Backlog, clock: Clock, size: int, elapsed_s: float, error: Exception | None = None) -> None:
    with backlog.running(backlog.arrive(size)):
        clock.now_s += elapsed_s
        if error is not None:
            raise error


def fail(backlog: Backlog, clock: Clock, error: Exception, times: int) -> None:
    for _ in range(times):
        with pytest.raises(type(error)):
            run(backlog, clock, 1, 0.01, error)


def test_an_idle_stage_reports_nothing(backlog: Backlog, clock: Clock) -> None:
    clock.now_s += 1

    assert backlog.report() == {WAIT: 0.0, LOAD: 0.0, BUSY: 0.0, QUEUE: 0.0}


def test_the_wait_is_what_is_left_of_the_running_batch_and_the_cost_of_those_in_front(
    backlog: Backlog, clock: Clock
) -> None:
    for size in (10, 20, 10, 20):
        run(backlog, clock, size, 0.010 + 0.001 * size)  # 10 ms a batch, 1 ms a device
    backlog.report()
    running = backlog.arrive(10)
    with backlog.running(running):
        clock.now_s += 0.005
        backlog.arrive(20)
        backlog.arrive(10)

        # at the third arrival: 15 of 20 ms are left, then 30 ms
        report = backlog.report()
    assert (report[WAIT], report[QUEUE]) == (pytest.approx(15 + 30 + 20, abs=0.5), 2)


def test_the_wait_is_the_95th_percentile_of_the_arrivals_since_the_last_report(backlog: Backlog, clock: Clock) -> None:
    run(backlog, clock, 1, 0.010)
    backlog.report()
    tickets = [backlog.arrive(1) for _ in range(19)]  # they meet 0, 10, ... 180 ms
    for ticket in tickets:
        backlog.leave(ticket)

    # with the empty queue of the report itself there are twenty, of which the nineteenth is the 95th percentile
    assert backlog.report()[WAIT] == pytest.approx(170, abs=0.5)
    assert backlog.report()[WAIT] == 0


def test_the_busy_fraction_is_of_the_time_since_the_last_report(backlog: Backlog, clock: Clock) -> None:
    clock.now_s += 0.7
    with backlog.running(backlog.arrive(1)):
        clock.now_s += 0.3
        first = backlog.report()
        clock.now_s += 0.2
    clock.now_s += 0.3
    second = backlog.report()

    assert (first[BUSY], second[BUSY]) == (pytest.approx(0.3), pytest.approx(0.4))


def test_a_worker_of_small_batches_is_busier_than_it_is_loaded(backlog: Backlog, clock: Clock) -> None:
    for size in (1, 10, 1, 10):
        run(backlog, clock, size, 0.010 + 0.001 * size)  # 11 ms for one, 20 ms for ten
    backlog.report()
    for _ in range(20):
        run(backlog, clock, 1, 0.011)

    report = backlog.report()

    assert (report[BUSY], report[LOAD]) == (1, pytest.approx(2 / 11, rel=0.05))


def test_a_batch_whose_caller_leaves_as_it_begins_is_counted_once(backlog: Backlog) -> None:
    ticket = backlog.arrive(3)
    with backlog.running(ticket):
        backlog.leave(ticket)
        assert not backlog.is_idle
    assert backlog.is_idle


def test_a_worker_that_moves_is_healthy_however_long_its_queue(backlog: Backlog, clock: Clock) -> None:
    for _ in range(100):
        backlog.arrive(64)
    for _ in range(50):
        run(backlog, clock, 64, 4.0)
        backlog.check()


@pytest.mark.parametrize("longest_s", [0.1, 20.0])
def test_a_worker_that_is_silent_for_twice_its_longest_batch_is_not(
    backlog: Backlog, clock: Clock, longest_s: float
) -> None:
    run(backlog, clock, 1, longest_s)
    with backlog.running(backlog.arrive(1)):
        clock.now_s += max(5.0, 2 * longest_s)
        backlog.check()
        clock.now_s += 0.1

        with pytest.raises(RuntimeError, match="silence"):
            backlog.check()


def test_a_queue_that_nobody_serves_is_not_healthy_even_if_its_callers_give_up(backlog: Backlog, clock: Clock) -> None:
    stuck = backlog.running(backlog.arrive(1))
    stuck.__enter__()
    for _ in range(60):
        ticket = backlog.arrive(1)
        clock.now_s += 0.1
        backlog.leave(ticket)

    with pytest.raises(RuntimeError, match="silence"):
        backlog.check()


def test_silence_without_work_is_health(backlog: Backlog, clock: Clock) -> None:
    run(backlog, clock, 1, 0.01)
    clock.now_s += 3600
    backlog.check()
    backlog.arrive(1)

    backlog.check()


def test_a_worker_whose_batches_fail_is_not_healthy(backlog: Backlog, clock: Clock) -> None:
    fail(backlog, clock, OSError("accelerator is lost"), times=19)
    backlog.check()
    fail(backlog, clock, OSError("accelerator is lost"), times=1)

    with pytest.raises(RuntimeError, match="20 failures"):
        backlog.check()


def test_a_worker_recovers_when_its_batches_succeed_again(backlog: Backlog, clock: Clock) -> None:
    fail(backlog, clock, OSError("accelerator is lost"), times=30)
    for _ in range(30):
        run(backlog, clock, 1, 0.01)

    backlog.check()


def test_what_a_restart_would_not_mend_is_not_the_workers_fault(backlog: Backlog, clock: Clock) -> None:
    fail(backlog, clock, UnknownModel(model="films", known=[]), times=50)

    backlog.check()


@given(
    st.lists(
        st.tuples(st.sampled_from(["arrive", "leave", "begin", "end", "report"]), st.integers(1, 64), st.floats(0, 9)),
        max_size=60,
    )
)
def test_reports_stay_within_bounds_whatever_happens(events: list[tuple[str, int, float]]) -> None:
    clock = Clock()
    backlog = Backlog(clock)
    waiting: list = []
    running: list = []
    for event, size, elapsed_s in events:
        clock.now_s += elapsed_s
        if event == "arrive":
            waiting.append(backlog.arrive(size))
        elif event == "leave" and waiting:
            backlog.leave(waiting.pop())
        elif event == "begin" and waiting and not running:
            running.append(backlog.running(waiting.pop(0)))
            running[0].__enter__()
        elif event == "end" and running:
            running.pop().__exit__(None, None, None)
        elif event == "report":
            report = backlog.report()
            assert 0 <= report[BUSY] <= 1
            assert 0 <= report[LOAD] <= 1
            assert 0 <= report[WAIT] < math.inf
            assert report[QUEUE] == len(waiting)
    assert backlog.is_idle == (not waiting and not running)


def test_threads_may_use_it_at_the_same_time() -> None:
    backlog = Backlog()
    failures: list[BaseException] = []

    def repeat(work: Callable[[], object]) -> None:
        try:
            for _ in range(2000):
                work()
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=repeat, args=(work,))
        for work in (lambda: backlog.leave(backlog.arrive(1)), backlog.report, backlog.check)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (failures, backlog.is_idle) == ([], True)
