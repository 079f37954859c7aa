"""A batch that is brief is computed where it is formed, and leaves the loop its turn before the next one."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.batching import BatchLimits, DispatchWhenFreeBatcher
from deployments.orders import Order
from deployments.pipeline import ColocatedPipeline
from duet.protocol.errors import InvalidSample, VersionNotReady
from tests.deployments.test_pipeline import EchoGenerator, FailingComposer, FixedEncoder, order
from tests.deployments.virtual_time import now_s, run_virtually

FAR_S = 1e6


class Brief:
    """Computes at once what it calls brief, and remembers which batches came which way."""

    def __init__(self, *, at_most: int = 1000) -> None:
        self.at_most = at_most
        self.at_once: list[list[object]] = []
        self.later: list[list[object]] = []
        self.formed: list[int] = []

    def run_now(self, items: Sequence[object]) -> Sequence[object] | None:
        if len(items) > self.at_most:
            return None
        self.at_once.append(list(items))
        return [f"done {item}" for item in items]

    async def run(self, items: Sequence[object]) -> Sequence[object]:
        self.later.append(list(items))
        return [f"done {item}" for item in items]

    def batcher(self, max_batch: int = 64) -> DispatchWhenFreeBatcher[object, object]:
        return DispatchWhenFreeBatcher(
            self.run,
            run_now=self.run_now,
            limits=BatchLimits(max_batch=max_batch),
            formed=lambda items: self.formed.append(len(items)),
            clock=now_s,
        )


async def all_of(gathering: DispatchWhenFreeBatcher[object, object], count: int) -> list[object]:
    asked = (gathering.submit(item, key="model", deadline_s=FAR_S) for item in range(count))
    return [batched.result for batched in await asyncio.gather(*asked)]


def test_brief_batches_are_computed_at_once_and_others_are_not() -> None:
    worker = Brief(at_most=1)

    async def scenario() -> list[object]:
        gathering = worker.batcher()
        return [*await all_of(gathering, 1), *await all_of(gathering, 2)]

    assert run_virtually(scenario()) == ["done 0", "done 0", "done 1"]
    assert (worker.at_once, worker.later) == ([[0]], [[0, 1]])
    assert worker.formed == [1, 2]


def test_between_two_brief_batches_the_loop_has_a_turn() -> None:
    worker = Brief()
    seen: list[int] = []

    async def scenario() -> None:
        gathering = worker.batcher(max_batch=2)
        loop = asyncio.get_running_loop()

        def look() -> None:
            seen.append(len(worker.at_once))
            if len(worker.at_once) < 3:
                loop.call_soon(look)

        loop.call_soon(look)
        await all_of(gathering, 6)

    run_virtually(scenario())

    assert worker.at_once == [[0, 1], [2, 3], [4, 5]]
    assert {1, 2} <= set(seen)


def test_a_brief_batch_that_fails_fails_its_requests_only() -> None:
    failure = InvalidSample(expected="ids", received="none", remedy="Send ids.")

    class Failing(Brief):
        def run_now(self, items: Sequence[object]) -> Sequence[object] | None:
            done = super().run_now(items)
            return {1: [1 // 0] if len(self.at_once) == 1 else done, 2: [failure, "fine"]}[len(items)]

    async def scenario() -> list[object]:
        gathering = Failing().batcher()

        async def asked(count: int) -> list[object]:
            each = (gathering.submit(item, key="model", deadline_s=FAR_S) for item in range(count))
            return list(await asyncio.gather(*each, return_exceptions=True))

        return [*await asked(1), *await asked(2), *await asked(1)]

    divided, refused, fine, last = run_virtually(scenario())

    assert isinstance(divided, ZeroDivisionError)
    assert refused is failure
    assert (fine.result, last.result) == ("fine", "done 0")


def test_the_cost_of_brief_batches_is_learnt() -> None:
    class Slow(Brief):
        def run_now(self, items: Sequence[object]) -> Sequence[object] | None:
            moved_s = 0.003 * len(items)
            asyncio.get_running_loop()._jumping.now_s += moved_s
            return super().run_now(items)

    async def scenario() -> float:
        gathering = Slow().batcher()
        for count in (1, 4, 2, 8, 1):
            await all_of(gathering, count)
        return gathering.compute_ms("model")

    assert 2.9 < run_virtually(scenario()) < 3.1


def test_those_who_have_been_read_and_not_submitted_are_expected_in_the_batch() -> None:
    async def scenario() -> list[float]:
        gathering = Brief().batcher()
        return [gathering.forecast("model", inside=inside).predicted_ms for inside in (0, 1, 65)]

    unknown_ms, alone_ms, crowded_ms = run_virtually(scenario())

    assert unknown_ms == alone_ms
    assert crowded_ms == 2 * alone_ms  # a full batch is ahead


def test_those_who_have_been_answered_and_not_left_are_not_expected_in_a_batch() -> None:
    seen: list[tuple[float, float]] = []

    class Watched(Brief):
        def run_now(self, items: Sequence[object]) -> Sequence[object] | None:
            asyncio.get_running_loop().call_soon(look)  # before any of those who wait goes on
            return super().run_now(items)

    gathering = Watched().batcher(max_batch=2)

    def look() -> None:
        seen.append(tuple(gathering.forecast("model", inside=inside).predicted_ms for inside in (1, 3)))

    async def scenario() -> None:
        await all_of(gathering, 2)
        look()

    run_virtually(scenario())

    (alone_ms, with_those_told_ms), (_, with_others_ms) = seen
    assert with_those_told_ms == alone_ms
    assert with_others_ms == 2 * alone_ms  # nobody has been told any more: they are a batch ahead


class TimedEncoder(FixedEncoder):
    """Takes as long as it is told, and remembers whether it ran on the event loop's thread."""

    def __init__(self) -> None:
        self.now_s, self.cost_s, self.on_loop = 0.0, 0.0, list[bool]()

    def encode(self, samples: Sequence[object], *, model: str, version: str) -> NDArray[np.float32]:
        self.now_s += self.cost_s * len(samples)
        self.on_loop.append(threading.current_thread() is threading.main_thread())
        return super().encode(samples, model=model, version=version)


async def answered(pipeline: ColocatedPipeline, orders: Sequence[Order]) -> Sequence[object]:
    """Ask as a batcher does."""
    outcomes = pipeline.run_now(orders)
    return await pipeline.run(orders) if outcomes is None else outcomes


async def test_a_version_that_could_not_be_run_yet_is_not_tried_on_the_event_loop() -> None:
    class Broken(TimedEncoder):
        def encode(self, samples: Sequence[object], *, model: str, version: str) -> NDArray[np.float32]:
            super().encode(samples, model=model, version=version)
            raise VersionNotReady(model=model, version=version)

    encoder = Broken()
    pipeline = ColocatedPipeline(encoder, EchoGenerator(), FailingComposer())

    for _ in range(2):
        with pytest.raises(VersionNotReady):
            await answered(pipeline, [order(0)])

    assert encoder.on_loop == [False, False]


async def test_only_batches_known_to_be_brief_run_on_the_event_loop() -> None:
    encoder = TimedEncoder()
    pipeline = ColocatedPipeline(encoder, EchoGenerator(), FailingComposer(), brief_ms=2, clock=lambda: encoder.now_s)

    for cost_ms, size in [(1, 1), (1, 1), (1, 2), (1, 3), (9, 1), (9, 1)]:
        encoder.cost_s = cost_ms / 1000
        await answered(pipeline, [order(number) for number in range(size)])

    # the first is not known yet, three are predicted to take 3 ms, and after a slow one the mean is above 2 ms
    assert encoder.on_loop == [False, True, True, False, True, False]


async def test_batches_of_another_kind_are_not_known_by_those_of_one() -> None:
    encoder = TimedEncoder()
    pipeline = ColocatedPipeline(encoder, EchoGenerator(), FailingComposer(), clock=lambda: encoder.now_s)

    for version in ("v1", "v1", "v2"):
        await answered(pipeline, [order(0, version=version)])

    assert encoder.on_loop == [False, True, False]
