"""A batch that nobody waits for any more is cancelled; one that anybody waits for is not, and slots follow replicas."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from deployments.batching import BatchLimits, DispatchWhenFreeBatcher
from tests.deployments.virtual_time import now_s, pass_seconds, run_virtually

FAR_S = 1e6
CALLER: ContextVar[str] = ContextVar("CALLER", default="nobody")


class Worker:
    """Takes a second for every batch, and tells which ended and which were cancelled."""

    def __init__(self, batch_s: float = 1.0) -> None:
        self.batch_s = batch_s
        self.begun: list[list[object]] = []
        self.ended: list[list[object]] = []
        self.cancelled: list[list[object]] = []
        self.callers: list[str] = []
        self.running = self.most_running = 0

    async def run(self, items: Sequence[object]) -> list[object]:
        self.begun.append(list(items))
        self.callers.append(CALLER.get())
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await pass_seconds(self.batch_s)
        except asyncio.CancelledError:
            self.cancelled.append(list(items))
            raise
        finally:
            self.running -= 1
        self.ended.append(list(items))
        return list(items)


Gathering = DispatchWhenFreeBatcher[object, object]


def batcher(worker: Worker, **limits: int) -> Gathering:
    return Gathering(worker.run, limits=BatchLimits(**limits), clock=now_s)


async def submitted(gathering: Gathering, *items: object, deadline_s: float = FAR_S) -> list[asyncio.Task[object]]:
    tasks = [asyncio.create_task(gathering.submit(item, key="model", deadline_s=deadline_s)) for item in items]
    await pass_seconds(0)
    return tasks


async def hang_up(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_a_batch_is_cancelled_when_the_last_of_its_callers_has_gone_and_the_next_one_runs_at_once() -> None:
    worker = Worker()

    async def scenario() -> float:
        gathering = batcher(worker, max_batch=2)
        first, second = await submitted(gathering, "a", "b")
        (other,) = await submitted(gathering, "c")
        await pass_seconds(0.25)
        await hang_up(first)
        await pass_seconds(0.25)
        assert worker.cancelled == []
        await hang_up(second)
        await other
        return now_s()

    ended_s = run_virtually(scenario())

    assert (worker.cancelled, worker.ended) == ([["a", "b"]], [["c"]])
    assert ended_s == pytest.approx(1.5)


def test_who_stays_gets_the_answer_of_a_batch_that_others_left() -> None:
    worker = Worker()

    async def scenario() -> object:
        gathering = batcher(worker)
        first, second, third = await submitted(gathering, "a", "b", "c")
        await hang_up(first, third)
        return await second

    assert run_virtually(scenario()).result == "b"
    assert worker.cancelled == []


def test_a_batch_that_is_left_before_it_begins_frees_its_slot() -> None:
    worker = Worker()

    async def scenario() -> object:
        gathering = batcher(worker)
        loop = asyncio.get_running_loop()
        asked = asyncio.create_task(gathering.submit("a", key="model", deadline_s=FAR_S))
        # turn one: it joins the queue; two: the batch forms, and it is cancelled; three: the batch would begin
        loop.call_soon(loop.call_soon, asked.cancel)
        await asyncio.gather(asked, return_exceptions=True)
        (other,) = await submitted(gathering, "b")
        return await other

    assert run_virtually(scenario()).result == "b"
    assert worker.ended == [["b"]]


def test_a_batch_whose_time_ran_out_teaches_that_it_was_slow() -> None:
    worker = Worker(batch_s=0.02)

    async def scenario() -> tuple[float, float]:
        gathering = batcher(worker)
        await asyncio.gather(*await submitted(gathering, "a"))
        worker.batch_s = 10.0
        before_ms = gathering.compute_ms("model")
        (late,) = await submitted(gathering, "b")
        await pass_seconds(0.5)
        await hang_up(late)
        return before_ms, gathering.compute_ms("model")

    before_ms, after_ms = run_virtually(scenario())

    assert before_ms == pytest.approx(20)
    assert after_ms > 80


def test_a_batch_is_cancelled_when_the_time_of_the_last_who_waits_is_over() -> None:
    worker = Worker()

    async def scenario() -> tuple[list[object], bool]:
        gathering = batcher(worker)
        tasks = await submitted(gathering, "a", "b", deadline_s=now_s() + 0.3)
        tasks += await submitted(gathering, "queued", deadline_s=now_s() + 0.2)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await pass_seconds(0)
        is_free = not worker.running
        (other,) = await submitted(gathering, "next")
        await other
        return outcomes, is_free

    outcomes, is_free = run_virtually(scenario())

    assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 3
    assert is_free
    assert (worker.cancelled, worker.ended) == ([["a", "b"]], [["next"]])


def test_a_batch_that_is_left_early_teaches_nothing() -> None:
    worker = Worker(batch_s=1.0)

    async def scenario() -> float:
        gathering = batcher(worker)
        await asyncio.gather(*await submitted(gathering, "a"))
        (gone,) = await submitted(gathering, "b")
        await pass_seconds(0.1)
        await hang_up(gone)
        return gathering.compute_ms("model")

    assert run_virtually(scenario()) == pytest.approx(1000)


def test_a_batch_that_is_cancelled_from_below_fails_its_callers() -> None:
    async def run(items: Sequence[object]) -> list[object]:
        raise asyncio.CancelledError

    async def scenario() -> list[object]:
        gathering = Gathering(run, limits=BatchLimits(), clock=now_s)
        return await asyncio.gather(*await submitted(gathering, "a", "b"), return_exceptions=True)

    assert [type(outcome) for outcome in run_virtually(scenario())] == [RuntimeError, RuntimeError]


def test_a_batch_runs_in_the_context_of_none_of_its_callers() -> None:
    # Serve cancels what a request has called when its device hangs up, and knows that by the context
    worker = Worker()

    async def ask(gathering: Gathering, name: str) -> None:
        CALLER.set(name)
        await gathering.submit(name, key="model", deadline_s=FAR_S)

    async def scenario() -> None:
        gathering = batcher(worker, max_batch=1)
        await asyncio.gather(*(ask(gathering, name) for name in "abc"))

    run_virtually(scenario())

    assert worker.callers == ["nobody"] * 3


def test_more_batches_run_at_once_as_soon_as_that_is_said_and_fewer_when_they_have_ended() -> None:
    worker = Worker()

    async def scenario() -> list[int]:
        gathering, running = batcher(worker, max_batch=1, in_flight=1), []
        tasks = await submitted(gathering, *range(9))
        await pass_seconds(0)
        running.append(worker.running)
        gathering.widen(3)
        await pass_seconds(0)
        running.append(worker.running)
        gathering.widen(2)
        running.append(worker.running)
        await pass_seconds(1.5)
        running.append(worker.running)
        await asyncio.gather(*tasks)
        return running

    assert run_virtually(scenario()) == [1, 3, 3, 2]


def test_no_batch_at_all_is_no_width() -> None:
    with pytest.raises(ValueError, match="at least one"):
        batcher(Worker()).widen(0)


def test_those_whom_a_stage_has_left_out_teach_nothing_of_the_cost() -> None:
    async def run(items: Sequence[object]) -> list[object]:
        computed = [item for item in items if item != "late"]
        await pass_seconds(0.01 * len(computed))
        return [item if item != "late" else TimeoutError("expired") for item in items]

    async def scenario() -> tuple[list[object], float, float]:
        gathering = Gathering(run, limits=BatchLimits(), clock=now_s)
        outcomes = await asyncio.gather(*await submitted(gathering, "a", "late", "late", "b"), return_exceptions=True)
        before_ms = gathering.predicted_ms("model", coming=3)
        await asyncio.gather(*await submitted(gathering, "late", "late"), return_exceptions=True)
        return outcomes, before_ms, gathering.predicted_ms("model", coming=3)

    outcomes, before_ms, after_ms = run_virtually(scenario())

    assert [isinstance(outcome, TimeoutError) for outcome in outcomes] == [False, True, True, False]
    assert before_ms == after_ms == pytest.approx(40)
