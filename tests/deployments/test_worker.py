"""One thread computes one batch after the other; what is cancelled in time is never computed."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from deployments.backlog import BUSY, QUEUE
from deployments.worker import Worker


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What a batch waits for; set at the end whatever happens, for Python waits for its threads."""
    event = threading.Event()
    yield event
    event.set()


async def test_batches_are_computed_one_after_the_other_on_one_thread() -> None:
    worker = Worker("stage")

    names = await asyncio.gather(*(worker.run(1, lambda: threading.current_thread().name) for _ in range(8)))

    assert set(names) == {"stage_0"}


async def test_an_error_reaches_the_caller_and_the_worker_goes_on() -> None:
    worker = Worker("stage")

    with pytest.raises(ZeroDivisionError):
        await worker.run(1, lambda: 1 / 0)

    assert await worker.run(1, lambda: 3) == 3


async def test_a_batch_that_is_cancelled_in_the_queue_is_never_computed(release: threading.Event) -> None:
    worker, computed = Worker("stage"), []
    began = threading.Event()
    running = asyncio.create_task(worker.run(1, lambda: began.set() or release.wait()))
    waiting = asyncio.create_task(worker.run(64, lambda: computed.append(64)))
    await asyncio.to_thread(began.wait)
    before = worker.load()

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    after = worker.load()
    release.set()
    await running
    await worker.check()

    assert (before[QUEUE], after[QUEUE], computed) == (1, 0, [])


@pytest.mark.parametrize("fails", [False, True])
async def test_a_batch_that_is_cancelled_while_it_runs_keeps_the_worker_busy_to_its_end(
    release: threading.Event, fails: bool
) -> None:
    worker, began = Worker("stage"), threading.Event()

    def compute() -> None:
        began.set()
        release.wait()
        if fails:
            raise ZeroDivisionError

    running = asyncio.create_task(worker.run(1, compute))
    await asyncio.to_thread(began.wait)
    running.cancel()
    await asyncio.wait([running], timeout=0.05)
    was_done = running.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not was_done
    await worker.check()


async def test_an_idle_worker_answers_on_its_thread(release: threading.Event) -> None:
    worker = Worker("stage")
    worker._thread.submit(release.wait)  # somebody blocks the thread behind the back of the record

    check = asyncio.create_task(worker.check())
    done, _ = await asyncio.wait([check], timeout=0.05)
    release.set()
    await check

    assert not done


async def test_a_busy_worker_is_not_asked_to_answer(release: threading.Event) -> None:
    worker, began = Worker("stage"), threading.Event()
    running = asyncio.create_task(worker.run(1, lambda: began.set() or release.wait()))
    await asyncio.to_thread(began.wait)

    await asyncio.wait_for(worker.check(), 30)
    busy = worker.load()[BUSY]
    release.set()
    await running

    assert busy > 0
