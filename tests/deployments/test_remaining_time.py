"""What is left of each request's time travels with its batch, and a stage computes nothing that nobody waits for."""

import asyncio
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deployments.backlog import QUEUE
from deployments.batching import BatchLimits, DispatchWhenFreeBatcher
from deployments.orders import Answered, Order, Timed
from deployments.pipeline import SplitPipeline
from deployments.remaining_time import Countdown
from deployments.replicas import ComposerReplica, EncoderReplica, ParameterGeneratorReplica
from deployments.telemetry import StageTimes
from deployments.worker import Worker
from duet.protocol.representation import Dtype, Form, Representation
from tests.deployments.test_pipeline import ByValue, InProcessHandle, InProcessMethod, order, split
from tests.deployments.virtual_time import now_s, pass_seconds, run_virtually
from tests.published_version import ITEM_IDS

HALF = Representation(Form.FACTORS, Dtype.FLOAT16, 2)
V1 = {"model": "tiny", "version": "v1"}
SAMPLES = [[item] for item in ITEM_IDS[:4]]
WHEREVER = pytest.mark.parametrize("method", [InProcessMethod, ByValue], ids=["by-reference", "by-value"])

Stages = tuple[EncoderReplica, ParameterGeneratorReplica, ComposerReplica]


@pytest.fixture
def replicas(models: Path) -> Stages:
    """One of each stage."""
    return (
        EncoderReplica(str(models), model="tiny", intra_op_threads=1),
        ParameterGeneratorReplica(str(models), model="tiny", accelerator="cpu", intra_op_threads=1),
        ComposerReplica(str(models), model="tiny"),
    )


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What a worker thread waits for; set at the end whatever happens, for Python waits for its threads."""
    event = threading.Event()
    yield event
    event.set()


class Counted:
    """A stage that remembers how many it computed each time."""

    def __init__(self, stage: object) -> None:
        self._stage, self.sizes = stage, list[int]()

    def encode(self, samples: Sequence[object], **which: str) -> NDArray[np.float32]:
        self.sizes.append(len(samples))
        return self._stage.encode(samples, **which)

    def generate(
        self, embeddings: NDArray[np.float32], representations: Sequence[Representation], **which: str
    ) -> list[bytes | None]:
        self.sizes.append(len(embeddings))
        return self._stage.generate(embeddings, representations, **which)

    def compose(
        self, bodies: Sequence[bytes | None], representations: Sequence[Representation], **rest: object
    ) -> list[bytes]:
        self.sizes.append(len(bodies))
        return self._stage.compose(bodies, representations, **rest)


def counted(replica: object) -> Counted:
    replica._stage = Counted(replica._stage)
    return replica._stage


def watched(worker: Worker) -> list[int]:
    """The sizes of the batches of which a worker learns the cost."""
    sizes, estimate = list[int](), worker._backlog._estimate
    observe = estimate.observe

    def observed(size: int, elapsed_ms: float, **further: float) -> None:
        sizes.append(size)
        observe(size, elapsed_ms, **further)

    estimate.observe = observed
    return sizes


def left_ms(*remaining_ms: float) -> NDArray[np.float64]:
    return np.array(remaining_ms)


async def through(
    replicas: Stages, remaining_ms: NDArray[np.float64], samples: Sequence[object] = SAMPLES
) -> tuple[Timed, Timed, Timed]:
    """What each stage hands on."""
    encoder, generator, composer = replicas
    plans, size = [HALF] * len(samples), len(samples)
    embedded = await encoder.encode(samples, **V1, remaining_ms=remaining_ms)
    generated = await generator.generate(embedded, plans, **V1)
    tags = [bytes([place]) * 8 for place in range(size)]
    return embedded, generated, await composer.compose(generated, plans, tags=tags, answers=["package"] * size, **V1)


async def test_every_stage_takes_its_time_from_what_each_member_has_left(replicas: Stages) -> None:
    patient_ms, hurried_ms = 60_000.0, 30_000.0

    handed = await through(replicas, left_ms(patient_ms, hurried_ms), SAMPLES[:2])

    times = handed[-1].times
    for member, given_ms in enumerate((patient_ms, hurried_ms)):
        left = [given_ms, *(float(timed.remaining_ms[member]) for timed in handed)]
        spent_ms = [before - after for before, after in itertools.pairwise(left)]
        took_ms = (times.encode_ms, times.generate_ms, times.compose_ms)
        assert all(spent >= computed > 0 for spent, computed in zip(spent_ms, took_ms, strict=True))


async def test_members_whose_time_is_over_are_computed_by_no_stage_and_the_others_as_if_they_were_alone(
    replicas: Stages,
) -> None:
    *_, everybody = await through(replicas, left_ms(*[np.inf] * 4))
    stages = [counted(replica) for replica in replicas]

    *_, composed = await through(replicas, left_ms(0.0, 60_000.0, -5.0, np.inf))

    assert [stage.sizes for stage in stages] == [[2], [2], [2]]
    assert composed.value[0] is composed.value[2] is None
    assert [composed.value[1], composed.value[3]] == [everybody.value[1], everybody.value[3]]


async def test_a_batch_of_which_nobody_has_time_is_not_computed_at_all(replicas: Stages) -> None:
    stages = [counted(replica) for replica in replicas]

    handed = await through(replicas, left_ms(0.0, -1.0, -5.0, -np.inf))

    assert [stage.sizes for stage in stages] == [[], [], []]
    assert [timed.value for timed in handed] == [None, None, None]


async def test_members_whose_time_is_over_when_the_worker_is_free_at_last_are_left_out(
    replicas: Stages, release: threading.Event
) -> None:
    encoder, *_ = replicas
    stage, worker = counted(encoder), encoder._worker._worker
    learnt = watched(worker)
    busy = asyncio.create_task(worker.run(1, release.wait))
    waiting = asyncio.create_task(encoder.encode(SAMPLES[:2], **V1, remaining_ms=left_ms(60_000.0, 1.0)))
    nobody = asyncio.create_task(encoder.encode(SAMPLES[:2], **V1, remaining_ms=left_ms(1.0, 1.0)))
    await pass_seconds(0.02)
    queued = worker.load()[QUEUE]

    release.set()
    await busy
    embedded, nothing = await waiting, await nobody

    assert (queued, stage.sizes) == (2, [1])
    assert learnt == [1, 1]  # the one that was busy, and a batch of one: nothing of who was left out
    assert embedded.value[0].any()
    assert (nothing.value, nothing.times.encode_ms) == (None, 0.0)


async def test_who_has_no_time_left_is_told_so_and_the_others_get_their_own_answers(models: Path) -> None:
    pipeline, far_s = split(models), asyncio.get_running_loop().time() + 60
    orders = [replace(order(number), deadline_s=far_s if number % 2 else 0.0) for number in range(4)]
    alone = [(await pipeline.run([one]))[0] for one in orders[1::2]]

    outcomes = await pipeline.run(orders)

    assert [type(outcome) for outcome in outcomes] == [TimeoutError, Answered, TimeoutError, Answered]
    assert [outcome.content for outcome in outcomes[1::2]] == [outcome.content for outcome in alone]
    nobody = await pipeline.run([replace(one, deadline_s=0.0) for one in orders])
    assert [type(outcome) for outcome in nobody] == [TimeoutError] * 4


class QueueingStage:
    """In virtual time: every batch waits, then is computed as a stage does it. Answers with who was computed."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s, self.computed = wait_s, list[object]()

    async def _handed_on(self, members: Sequence[object], remaining_ms: NDArray[np.float64]) -> Timed:
        countdown = Countdown(remaining_ms, clock=now_s)
        await pass_seconds(self._wait_s)
        if not countdown.begin():
            return Timed(None, StageTimes(), countdown.remaining_ms)
        here = list(countdown.chosen(members))
        self.computed += here
        return Timed(countdown.spread(here), StageTimes(), countdown.remaining_ms)

    async def encode(self, samples: list[object], *, remaining_ms: NDArray[np.float64], **batch: object) -> Timed:
        return await self._handed_on(samples, remaining_ms)

    async def generate(self, embeddings: Timed, representations: object, **batch: object) -> Timed:
        return await self._handed_on(embeddings.value, embeddings.remaining_ms)

    async def compose(self, bodies: Timed, representations: object, *, tags: list[bytes], **batch: object) -> Timed:
        return await self._handed_on(tags, bodies.remaining_ms)


def chain(stages: Sequence[QueueingStage], method: type[InProcessMethod]) -> SplitPipeline:
    handles = [InProcessHandle(stage) for stage in stages]
    for handle in handles:
        handle.method = method
    return SplitPipeline(*handles, clock=now_s)


def numbered(size: int) -> list[Order]:
    return [replace(order(0), sample=number, tag=bytes([number]) * 8) for number in range(size)]


@WHEREVER
@given(
    budgets_ms=st.lists(st.integers(1, 120).map(lambda number: number + 0.5), min_size=1, max_size=8),
    waits_ms=st.tuples(*[st.integers(0, 40)] * 3),
)
def test_no_stage_computes_whose_time_is_over_and_everybody_else_gets_the_right_answer(
    method: type[InProcessMethod], budgets_ms: list[float], waits_ms: tuple[int, int, int]
) -> None:
    async def scenario() -> tuple[list[QueueingStage], list[object]]:
        stages = [QueueingStage(wait_ms / 1000) for wait_ms in waits_ms]
        # all leave at once, in one batch or, where a batcher that knows nothing yet fears for some, in several
        limits = BatchLimits(in_flight=len(budgets_ms))
        gathering = DispatchWhenFreeBatcher(chain(stages, method).run, limits=limits, clock=now_s)
        asked = (
            gathering.submit(replace(one, deadline_s=budget_ms / 1000), key="model", deadline_s=budget_ms / 1000)
            for one, budget_ms in zip(numbered(len(budgets_ms)), budgets_ms, strict=True)
        )
        return stages, await asyncio.gather(*asked, return_exceptions=True)

    stages, outcomes = run_virtually(scenario())

    begun_ms = list(itertools.accumulate(waits_ms))
    # the tags are a byte, eight times
    computed = [[one[0] if isinstance(one, bytes) else one for one in stage.computed] for stage in stages]
    for number, (budget_ms, outcome) in enumerate(zip(budgets_ms, outcomes, strict=True)):
        assert [number in members for members in computed] == [budget_ms > begin_ms for begin_ms in begun_ms]
        if budget_ms > begun_ms[-1]:
            assert outcome.result.content == bytes([number]) * 8
        else:
            assert isinstance(outcome, TimeoutError)


@WHEREVER
@pytest.mark.parametrize("had_it", [1, 2])
def test_who_hangs_up_is_left_out_by_the_next_stage_where_the_batch_passes_through_the_gateway(
    method: type[InProcessMethod], had_it: int
) -> None:
    async def scenario() -> tuple[list[QueueingStage], list[object]]:
        stages, orders = [QueueingStage(1.0) for _ in range(3)], numbered(3)
        running = asyncio.create_task(chain(stages, method).run(orders))
        await pass_seconds(had_it - 0.5)
        orders[1].is_wanted = False
        return stages, await running

    stages, outcomes = run_virtually(scenario())

    everybody, tags = [0, 1, 2], [bytes([number]) * 8 for number in range(3)]
    left = [0, 2] if method is ByValue else everybody
    assert [stage.computed for stage in stages] == [
        everybody,
        left if had_it == 1 else everybody,
        [tags[number] for number in left],
    ]
    assert [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Answered)] == left


def test_who_was_left_out_by_one_stage_is_left_out_by_the_next_whatever_the_clock_of_the_gateway_says() -> None:
    async def scenario() -> tuple[list[QueueingStage], list[object]]:
        stages = [QueueingStage(wait_s) for wait_s in (1.0, 0.1, 0.1)]
        pipeline = SplitPipeline(*chain(stages, ByValue)._stages, clock=lambda: 0.0)
        orders = [replace(each, deadline_s=deadline_s) for each, deadline_s in zip(numbered(2), (0.5, 60), strict=True)]
        return stages, await pipeline.run(orders)

    stages, outcomes = run_virtually(scenario())

    assert [len(stage.computed) for stage in stages] == [1, 1, 1]
    assert [type(outcome) for outcome in outcomes] == [TimeoutError, Answered]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.booleans())
def test_rows_are_put_back_where_they_were_chosen(is_live: list[bool], is_array: bool) -> None:
    countdown = Countdown(np.where(is_live, 1.0, 0.0), clock=lambda: 0.0)
    rows = np.arange(1, 2 * len(is_live) + 1).reshape(-1, 2)

    chosen = countdown.chosen(rows if is_array else rows.tolist())
    spread = countdown.spread(chosen)

    assert len(chosen) == countdown.size == sum(is_live)
    assert len(spread) == len(is_live)
    for row, found, live in zip(rows.tolist(), spread, is_live, strict=True):
        assert (list(found) == row) if live else found is None or not any(found)
