"""Both placements give each order its own answer, in order, and hand on what fails."""

import inspect
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.composer import Composer
from deployments.encoder import Encoder
from deployments.orders import Answered, AnswerKind, Order
from deployments.parameter_generator import ParameterGenerator
from deployments.pipeline import ColocatedPipeline, Pipeline, SplitPipeline
from deployments.replicas import ComposerReplica, EncoderReplica, ParameterGeneratorReplica
from duet.protocol.errors import GenerationError, NonFiniteParameters, UnknownVersion
from duet.protocol.package import ParameterPackage
from duet.protocol.representation import SHARED, Dtype, Form, Representation
from tests.published_version import ITEM_IDS, TABLE

HALF = Representation(Form.FACTORS, Dtype.FLOAT16, 2)


def order(number: int, representation: Representation = HALF, version: str = "v1") -> Order:
    tag = bytes([number]) * 8
    return Order("tiny", version, [ITEM_IDS[number]], representation, tag, "package")


class InProcessHandle:
    """Stands in for a Ray Serve handle: awaitable responses that can be passed on un-awaited."""

    def __init__(self, replica: object) -> None:
        self._replica, self.method = replica, InProcessMethod

    def __getattr__(self, method: str) -> "InProcessMethod":
        return self.method(getattr(self._replica, method))


class InProcessMethod:
    """One method of a handle."""

    def __init__(self, method: object) -> None:
        self._method = method

    async def remote(self, *arguments: object, **options: object) -> object:

        arrived = [await argument if inspect.isawaitable(argument) else argument for argument in arguments]
        return await self._method(*arrived, **options)


def colocated(models: Path) -> Pipeline:
    return ColocatedPipeline(Encoder(models), ParameterGenerator(models), Composer(models))


def split(models: Path) -> Pipeline:
    encoder = EncoderReplica(str(models), model=None, intra_op_threads=1)
    generator = ParameterGeneratorReplica(str(models), model="tiny", accelerator="cpu", intra_op_threads=1)
    composer = ComposerReplica(str(models), model=None)
    return SplitPipeline(*(InProcessHandle(replica) for replica in (encoder, generator, composer)))


@pytest.fixture(params=[colocated, split], ids=["colocated", "split"])
def pipeline(request: pytest.FixtureRequest, models: Path) -> Pipeline:
    return request.param(models)


async def test_each_order_gets_its_own_package_in_order(pipeline: Pipeline) -> None:
    orders = [order(number) for number in range(5)] + [order(5, SHARED)]

    outcomes = await pipeline.run(orders)

    packages = [ParameterPackage.decode(outcome.content, TABLE) for outcome in outcomes]
    assert [package.tag for package in packages] == [asked.tag for asked in orders]
    assert [package.representation for package in packages] == [asked.representation for asked in orders]
    assert len({package.body for package in packages}) == len(orders)


async def test_the_placements_give_the_same_packages(models: Path) -> None:
    orders = [order(number) for number in range(5)]

    near, far = await colocated(models).run(orders), await split(models).run(orders)

    assert [outcome.content for outcome in near] == [outcome.content for outcome in far]


async def test_every_stage_is_timed(pipeline: Pipeline) -> None:
    (outcome,) = await pipeline.run([order(0)])

    assert isinstance(outcome, Answered)
    assert min(outcome.times.encode_ms, outcome.times.generate_ms, outcome.times.compose_ms) > 0


async def test_a_version_that_does_not_exist_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(UnknownVersion):
        await pipeline.prepare("tiny", "v9")
    with pytest.raises(UnknownVersion):
        await pipeline.run([order(0, version="v9")])


async def test_a_prepared_pipeline_answers_its_check(pipeline: Pipeline) -> None:
    await pipeline.prepare("tiny", "v1")

    await pipeline.check()


class FailingComposer:
    """Finds every second device unusable."""

    def prepare(self, model: str, version: str) -> None:
        pass

    def compose(
        self,
        bodies: Sequence[bytes | None],
        representations: Sequence[Representation],
        *,
        tags: Sequence[bytes],
        answers: Sequence[AnswerKind],
        model: str,
        version: str,
    ) -> list[bytes | GenerationError]:
        failure = NonFiniteParameters(model=model, version=version)
        return [failure if place % 2 else tag for place, tag in enumerate(tags)]


class FixedEncoder:
    """Embeds everything as zeros."""

    def prepare(self, model: str, version: str) -> None:
        pass

    def encode(self, samples: Sequence[object], *, model: str, version: str) -> NDArray[np.float32]:
        return np.zeros((len(samples), 2), np.float32)


class EchoGenerator:
    """Generates empty bodies."""

    def prepare(self, model: str, version: str) -> None:
        pass

    def generate(
        self, embeddings: NDArray[np.float32], representations: Sequence[Representation], *, model: str, version: str
    ) -> list[bytes | None]:
        return [b""] * len(embeddings)


async def test_the_verdict_on_one_device_does_not_touch_its_neighbours() -> None:
    pipeline = ColocatedPipeline(FixedEncoder(), EchoGenerator(), FailingComposer())

    outcomes = await pipeline.run([order(number) for number in range(3)])

    assert [isinstance(outcome, Answered) for outcome in outcomes] == [True, False, True]
    assert isinstance(outcomes[1], NonFiniteParameters)


class TimedEncoder(FixedEncoder):
    """Takes as long as it is told, and remembers whether it ran on the event loop's thread."""

    def __init__(self) -> None:
        self.now_s, self.cost_s, self.on_loop = 0.0, 0.0, list[bool]()

    def encode(self, samples: Sequence[object], *, model: str, version: str) -> NDArray[np.float32]:
        self.now_s += self.cost_s * len(samples)
        self.on_loop.append(threading.current_thread() is threading.main_thread())
        return super().encode(samples, model=model, version=version)


async def test_only_batches_known_to_be_brief_run_on_the_event_loop() -> None:
    encoder = TimedEncoder()
    pipeline = ColocatedPipeline(encoder, EchoGenerator(), FailingComposer(), brief_ms=2, clock=lambda: encoder.now_s)

    for cost_ms, size in [(1, 1), (1, 1), (1, 2), (1, 3), (9, 1), (9, 1)]:
        encoder.cost_s = cost_ms / 1000
        await pipeline.run([order(number) for number in range(size)])

    # the first is not known yet, three are predicted to take 3 ms, and after a slow one the mean is above 2 ms
    assert encoder.on_loop == [False, True, True, False, True, False]


async def test_batches_of_another_kind_are_not_known_by_those_of_one() -> None:
    encoder = TimedEncoder()
    pipeline = ColocatedPipeline(encoder, EchoGenerator(), FailingComposer(), clock=lambda: encoder.now_s)

    for version in ("v1", "v1", "v2"):
        await pipeline.run([order(0, version=version)])

    assert encoder.on_loop == [False, True, False]


async def test_what_a_stage_makes_is_passed_on_before_it_is_there(models: Path) -> None:
    pipeline = split(models)
    handed: list[bool] = []

    class Watched(InProcessMethod):
        async def remote(self, *arguments: object, **options: object) -> object:
            handed.append(inspect.isawaitable(arguments[0]))
            return await super().remote(*arguments, **options)

    for handle in (pipeline._encoder, pipeline._generator, pipeline._composer):
        handle.method = Watched

    await pipeline.run([order(0)])

    # the first stage gets samples, the others get what is still being computed
    assert sorted(handed) == [False, True, True]
