"""How large a batch grows: as far as all in it have time, and no smaller than keeps the others in time."""

import asyncio

from deployments.batching import DispatchWhenFreeBatcher
from tests.deployments.test_batching import FAR_S, LinearWorker, batcher
from tests.deployments.virtual_time import now_s, pass_seconds, run_virtually


async def with_known_cost(worker: LinearWorker, **limits: int) -> DispatchWhenFreeBatcher[object, object]:
    """Let a batcher see batches of one, two and three."""
    gathering = batcher(worker, **limits)
    for size in (1, 2, 3, 1, 2, 3):
        await asyncio.gather(*(gathering.submit(None, key="model", deadline_s=FAR_S) for _ in range(size)))
    worker.batches.clear()
    worker.begun_s.clear()
    return gathering


def test_a_batch_is_no_larger_than_those_in_it_have_time_for() -> None:
    worker = LinearWorker(a=0.010, b=0.005)

    async def scenario() -> None:
        gathering = await with_known_cost(worker)
        # 43 ms are enough for three together, and a fifth more than that, but not for a fourth
        far = now_s() + 0.043
        await asyncio.gather(*(gathering.submit(item, key="model", deadline_s=far + item / 1e6) for item in range(3)))
        asked = [gathering.submit(item, key="model", deadline_s=now_s() + 0.043 + item) for item in range(5)]
        await asyncio.gather(*asked)

    run_virtually(scenario())

    assert worker.batches == [[0, 1, 2], [0, 1, 2], [3, 4]]


def test_who_would_be_late_among_more_urgent_ones_does_not_hold_them_up() -> None:
    worker = LinearWorker(a=0.010, b=0.005)

    async def scenario() -> None:
        gathering = await with_known_cost(worker)
        tight = gathering.submit("tight", key="model", deadline_s=now_s() + 0.016)
        roomy = [gathering.submit(item, key="model", deadline_s=FAR_S, priority=-1) for item in ("a", "b")]
        calm = [gathering.submit(item, key="model", deadline_s=FAR_S) for item in ("c", "d")]
        await asyncio.gather(tight, *roomy, *calm, return_exceptions=True)

    run_virtually(scenario())

    # alone it would have been in time; behind two of higher priority it is not, and expires in the queue
    assert worker.batches == [["a", "b", "c", "d"]]


def test_a_queue_that_was_too_long_for_a_while_is_served_in_time_again() -> None:
    # batches as small as the most urgent one has time for would cost so much a request that nobody is ever in time
    worker = LinearWorker(a=0.015, b=0.030)
    in_time: list[tuple[float, bool]] = []

    async def request(gathering: DispatchWhenFreeBatcher[object, object], due_s: float) -> None:
        await pass_seconds(due_s)
        try:
            await gathering.submit(None, key="model", deadline_s=now_s() + 0.4)
            in_time.append((due_s, now_s() <= due_s + 0.4))
        except TimeoutError:
            in_time.append((due_s, False))

    async def scenario() -> None:
        gathering = batcher(worker, max_batch=16)
        busy, calm = [n / 100 for n in range(300)], [3 + n / 35 for n in range(175)]
        await asyncio.gather(*(request(gathering, due_s) for due_s in busy + calm))

    run_virtually(scenario())

    during = [was for due_s, was in in_time if 1 < due_s < 3]
    after = [was for due_s, was in in_time if due_s > 5]
    assert sum(during) / 2 > 40  # a second; 59 is what batches of 16 would reach
    assert sum(after) >= 0.95 * len(after)
