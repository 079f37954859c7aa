"""The batcher forms batches when the worker is free, bounds its queue, and computes nothing that nobody waits for."""

import asyncio
from collections.abc import Sequence
from statistics import mean, quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.batching import BatchLimits, DispatchWhenFreeBatcher
from duet.protocol.errors import InvalidSample, Overloaded
from tests.deployments.virtual_time import now_s, pass_seconds, run_virtually

FAR_S = 1e6


class Worker:
    """Takes the same time for every batch and remembers what it was given."""

    def __init__(self, batch_s: float = 0.02) -> None:
        self.batch_s = batch_s
        self.batches: list[list[object]] = []
        self.running = self.most_running = 0

    async def run(self, items: Sequence[object]) -> list[object]:
        self.batches.append(list(items))
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await pass_seconds(self.batch_s)
        finally:
            self.running -= 1
        return [f"done {item}" for item in items]


def batcher(worker: Worker, **limits: int) -> DispatchWhenFreeBatcher[object, object]:
    return DispatchWhenFreeBatcher(worker.run, limits=BatchLimits(**limits), clock=now_s)


async def latencies_ms(worker: Worker, *, gap_s: float, count: int) -> list[float]:
    """Submit ``count`` requests, one every ``gap_s``, and time each."""
    gathering = batcher(worker, max_batch=32)

    async def request(number: int) -> float:
        await pass_seconds(number * gap_s)
        arrived_s = now_s()
        await gathering.submit(number, key="model", deadline_s=FAR_S)
        return (now_s() - arrived_s) * 1000

    return await asyncio.gather(*(request(number) for number in range(count)))


async def submitted(gathering: DispatchWhenFreeBatcher[object, object], *items: object) -> list[asyncio.Task[object]]:
    """Submit items one after the other and let the loop turn once."""
    tasks = [asyncio.create_task(gathering.submit(item, key="model", deadline_s=FAR_S)) for item in items]
    await pass_seconds(0)
    return tasks


def test_batches_grow_with_the_queue_instead_of_freezing_at_one() -> None:
    # batches frozen before the worker is free stay at one request and reach a median of 2,900 ms here
    worker = Worker(batch_s=0.02)

    times_ms = run_virtually(latencies_ms(worker, gap_s=0.001, count=2000))

    assert mean(len(batch) for batch in worker.batches[:-1]) > 15
    assert quantiles(times_ms, n=2)[0] <= 35
    assert quantiles(times_ms, n=100)[98] <= 45


def test_a_request_to_an_idle_worker_leaves_at_once_and_alone() -> None:
    worker = Worker(batch_s=0.02)

    times_ms = run_virtually(latencies_ms(worker, gap_s=0.05, count=20))

    assert {len(batch) for batch in worker.batches} == {1}
    assert times_ms == pytest.approx([20.0] * 20)


def test_requests_of_one_turn_of_the_loop_share_a_batch() -> None:
    worker = Worker()

    async def scenario() -> None:
        await asyncio.gather(*await submitted(batcher(worker), 1, 2, 3))

    run_virtually(scenario())

    assert worker.batches == [[1, 2, 3]]


def test_no_batch_is_larger_than_the_limit_and_no_more_run_than_may_be_in_flight() -> None:
    worker = Worker()

    async def scenario() -> None:
        await asyncio.gather(*await submitted(batcher(worker, max_batch=4, in_flight=2), *range(11)))

    run_virtually(scenario())

    assert [len(batch) for batch in worker.batches] == [4, 4, 3]
    assert worker.most_running == 2


def test_a_full_queue_refuses_with_a_time_to_retry_after() -> None:
    worker = Worker(batch_s=3.0)

    async def scenario() -> Overloaded:
        gathering = batcher(worker, max_batch=1, max_queued=2)
        tasks = await submitted(gathering, "runs")
        tasks += await submitted(gathering, "waits", "waits")
        with pytest.raises(Overloaded) as refusal:
            await gathering.submit("too much", key="model", deadline_s=FAR_S)
        await asyncio.gather(*tasks)
        return refusal.value

    refusal = run_virtually(scenario())

    assert refusal.retry_after_s >= 1
    assert ["too much"] not in worker.batches


def test_a_burst_is_not_refused_while_the_worker_is_idle() -> None:
    worker = Worker()

    async def scenario() -> None:
        await asyncio.gather(*await submitted(batcher(worker, max_batch=4, max_queued=2), *range(4)))

    run_virtually(scenario())

    assert sorted(item for batch in worker.batches for item in batch) == [0, 1, 2, 3]


def test_a_cancelled_request_never_reaches_the_worker_and_frees_its_place() -> None:
    worker = Worker()

    async def scenario() -> None:
        gathering = batcher(worker, max_queued=1)
        tasks = await submitted(gathering, "first")
        (gone,) = await submitted(gathering, "gone")
        gone.cancel()
        await pass_seconds(0)
        tasks += await submitted(gathering, "last")
        await asyncio.gather(*tasks)

    run_virtually(scenario())

    assert worker.batches == [["first"], ["last"]]


def test_an_expired_request_never_reaches_the_worker() -> None:
    worker = Worker(batch_s=1.0)

    async def scenario() -> None:
        gathering = batcher(worker)
        await submitted(gathering, "first")
        with pytest.raises(TimeoutError):
            await gathering.submit("late", key="model", deadline_s=0.5)

    run_virtually(scenario())

    assert worker.batches == [["first"]]


def test_priority_goes_before_deadline_and_deadline_before_arrival() -> None:
    worker = Worker()

    async def scenario() -> None:
        gathering = batcher(worker, max_batch=1)
        tasks = await submitted(gathering, "first")
        for item, priority, deadline_s in (("low", 2, 5), ("calm", 1, 9), ("urgent", 1, 5), ("high", 0, 9)):
            ask = gathering.submit(item, key="model", deadline_s=deadline_s, priority=priority)
            tasks.append(asyncio.create_task(ask))
        await asyncio.gather(*tasks)

    run_virtually(scenario())

    assert worker.batches == [["first"], ["high"], ["urgent"], ["calm"], ["low"]]


def test_a_batch_holds_requests_of_one_key_and_the_others_keep_their_turn() -> None:
    worker = Worker()

    async def scenario() -> None:
        gathering = batcher(worker)
        tasks = [
            asyncio.create_task(gathering.submit(f"{key}{number}", key=key, deadline_s=FAR_S))
            for number, key in enumerate(("a", "b", "a", "b"))
        ]
        await asyncio.gather(*tasks)

    run_virtually(scenario())

    assert worker.batches == [["a0", "a2"], ["b1", "b3"]]


def test_one_failure_in_a_batch_is_raised_to_its_caller_only() -> None:
    failure = InvalidSample(expected="ids", received="none", remedy="Send ids.")

    async def run(items: Sequence[object]) -> list[object | Exception]:
        return [failure if item == "bad" else item for item in items]

    async def scenario() -> list[object]:
        gathering = DispatchWhenFreeBatcher[object, object](run, limits=BatchLimits(), clock=now_s)
        asked = (gathering.submit(item, key="model", deadline_s=FAR_S) for item in ("good", "bad"))
        return await asyncio.gather(*asked, return_exceptions=True)

    good, bad = run_virtually(scenario())

    assert good.result == "good"
    assert bad is failure


def test_a_failing_batch_fails_its_requests_and_the_next_one_runs() -> None:
    calls = 0

    async def run(items: Sequence[object]) -> Sequence[object]:
        nonlocal calls
        calls += 1
        # the second batch answers too few, which must not leave anybody waiting
        return [] if calls == 2 else items if calls == 3 else 1 // 0

    async def scenario() -> list[object]:
        gathering = DispatchWhenFreeBatcher[object, object](run, limits=BatchLimits(), clock=now_s)
        outcomes: list[object] = []
        for item in range(3):
            outcomes += await asyncio.gather(
                gathering.submit(item, key="model", deadline_s=FAR_S), return_exceptions=True
            )
        return outcomes

    divided, miscounted, fine = run_virtually(scenario())

    assert isinstance(divided, ZeroDivisionError)
    assert isinstance(miscounted, ValueError)
    assert fine.result == 2


def test_the_predicted_time_is_the_measured_cost_plus_the_queue() -> None:
    worker = Worker(batch_s=0.02)

    async def scenario() -> tuple[float, float, float]:
        gathering = batcher(worker, max_batch=1)
        await asyncio.gather(*await submitted(gathering, 1))
        idle_ms = gathering.predicted_ms("model")
        tasks = await submitted(gathering, 2)
        busy_ms = gathering.predicted_ms("model")
        tasks += await submitted(gathering, 3, 4)
        queued_ms = gathering.predicted_ms("model")
        await asyncio.gather(*tasks)
        return idle_ms, busy_ms, queued_ms

    idle_ms, busy_ms, queued_ms = run_virtually(scenario())

    assert (idle_ms, busy_ms, queued_ms) == pytest.approx((20.0, 40.0, 80.0))


def test_a_request_knows_how_long_it_queued_and_in_what_company() -> None:
    worker = Worker(batch_s=0.02)

    async def scenario() -> list[object]:
        gathering = batcher(worker)
        tasks = await submitted(gathering, 1)
        await pass_seconds(0.005)
        tasks += await submitted(gathering, 2, 3)
        return await asyncio.gather(*tasks)

    first, second, third = run_virtually(scenario())

    assert (first.queue_ms, first.batch_size) == (pytest.approx(0.0), 1)
    assert (second.queue_ms, second.batch_size) == (pytest.approx(15.0), 2)
    assert third.result == "done 3"


def test_what_is_known_of_a_cost_is_out_of_date_after_a_second_of_idleness() -> None:
    worker = Worker()

    async def scenario() -> list[bool]:
        gathering = batcher(worker)
        states = [gathering.is_out_of_date("model")]
        tasks = await submitted(gathering, 1)
        states.append(gathering.is_out_of_date("model"))
        await asyncio.gather(*tasks)
        states.append(gathering.is_out_of_date("model"))
        await pass_seconds(2)
        return [*states, gathering.is_out_of_date("model")]

    assert run_virtually(scenario()) == [True, False, False, True]


class LinearWorker(Worker):
    """Takes ``a`` seconds a request and ``b`` a batch, and remembers when each batch began."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = a, b
        self.begun_s: list[float] = []

    async def run(self, items: Sequence[object]) -> list[object]:
        self.begun_s.append(now_s())
        self.batch_s = self.a * len(items) + self.b
        return await super().run(items)


@given(
    requests=st.lists(
        st.tuples(
            st.floats(0, 0.5),  # when it arrives
            st.floats(0.001, 0.4),  # how long it has
            st.integers(0, 2),  # its priority
            st.sampled_from(["one", "two"]),  # its key
            st.booleans(),  # whether its caller hangs up half-way
        ),
        max_size=60,
    ),
    cost=st.tuples(st.floats(0.0001, 0.02), st.floats(0.0001, 0.05)),
    limits=st.builds(BatchLimits, st.integers(1, 8), st.integers(1, 20), st.integers(1, 3)),
)
def test_whatever_arrives_nothing_is_lost_nothing_dead_is_computed_and_all_bounds_hold(requests, cost, limits) -> None:
    worker = LinearWorker(*cost)
    most_waiting = 0
    ended: dict[int, str] = {}
    given_up_s: dict[int, float] = {}
    waiting: dict[int, tuple[int, float, int]] = {}  # how urgent who waits is, the smallest first
    most_urgent: list[bool] = []

    def formed(items: Sequence[object]) -> None:
        members = [number for number, _ in items]
        alive = [number for number in waiting if number not in ended and now_s() < given_up_s[number]]
        first = min(alive, key=waiting.__getitem__)
        most_urgent.append(requests[first][3] == requests[members[0]][3])
        for number in members:
            del waiting[number]

    async def request(gathering: DispatchWhenFreeBatcher[object, object], number: int) -> None:
        nonlocal most_waiting
        arrives_s, patience_s, priority, key, hangs_up = requests[number]
        await pass_seconds(arrives_s)
        asked = gathering.submit((number, key), key=key, deadline_s=now_s() + patience_s, priority=priority)
        given_up_s[number] = now_s() + (patience_s / 2 if hangs_up else patience_s)
        waiting[number] = (priority, now_s() + patience_s, len(given_up_s))
        try:
            async with asyncio.timeout_at(given_up_s[number] if hangs_up else None):
                await asked
            ended[number] = "answered"
        except Overloaded:
            ended[number] = "refused"
        except TimeoutError:
            ended[number] = "gone"
        most_waiting = max(most_waiting, gathering.queue_length)

    async def scenario() -> int:
        gathering = DispatchWhenFreeBatcher(worker.run, limits=limits, formed=formed, clock=now_s)
        await asyncio.gather(*(request(gathering, number) for number in range(len(requests))))
        return gathering.queue_length

    left = run_virtually(scenario())

    computed = [number for batch in worker.batches for number, _ in batch]
    assert len(ended) == len(requests)
    assert len(computed) == len(set(computed))
    assert {number for number, end in ended.items() if end == "answered"} <= set(computed)
    assert not {number for number, end in ended.items() if end == "refused"} & set(computed)
    assert all(len({key for _, key in batch}) == 1 for batch in worker.batches)
    assert max(map(len, worker.batches), default=0) <= limits.max_batch
    assert worker.most_running <= limits.in_flight
    assert most_waiting <= limits.max_queued
    for begun_s, batch in zip(worker.begun_s, worker.batches, strict=True):
        assert all(begun_s < given_up_s[number] for number, _ in batch)
    assert all(most_urgent)
    assert left <= sum(end == "gone" for end in ended.values())  # who hung up is forgotten at the next batch
