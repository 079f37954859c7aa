"""Both placements give each order its own answer, in order, and hand on what fails."""

import asyncio
import inspect
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException, ReplicaUnavailableError

from deployments.composer import Composer
from deployments.encoder import Encoder
from deployments.orders import Answered, AnswerKind, Order, Timed
from deployments.parameter_generator import ParameterGenerator
from deployments.pipeline import ColocatedPipeline, Pipeline, SplitPipeline
from deployments.replicas import ComposerReplica, EncoderReplica, ParameterGeneratorReplica
from deployments.telemetry import StageTimes
from duet.protocol.errors import GenerationError, NonFiniteParameters, UnknownVersion, VersionNotReady
from duet.protocol.package import ParameterPackage
from duet.protocol.representation import SHARED, Dtype, Form, Representation
from tests.deployments.virtual_time import now_s, pass_seconds, run_virtually
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

    def broadcast(self, method: str, *arguments: object) -> "Broadcast":
        return Broadcast([getattr(self._replica, method)(*arguments)])


class Broadcast:
    """What every replica answers."""

    def __init__(self, answers: Sequence[Awaitable[object]]) -> None:
        self._answers = answers

    async def results_async(self) -> list[object]:
        return [await answer for answer in self._answers]


class InProcessResponse:
    """Can be awaited, or passed on."""

    def __init__(self, value: Coroutine[object, object, object], *, by_reference: bool) -> None:
        self._task, self.by_reference = asyncio.ensure_future(value), by_reference

    def __await__(self) -> Iterator[object]:
        return self._task.__await__()

    def cancel(self) -> None:
        self._task.cancel()


class InProcessMethod:
    """One method of a handle."""

    by_reference = True

    def __init__(self, method: object) -> None:
        self._method = method

    def remote(self, *arguments: object, **options: object) -> InProcessResponse:
        return InProcessResponse(self._call(*arguments, **options), by_reference=self.by_reference)

    async def _call(self, *arguments: object, **options: object) -> object:
        arrived = [await argument if inspect.isawaitable(argument) else argument for argument in arguments]
        return await self._method(*arrived, **options)


class ByValue(InProcessMethod):
    """As gRPC does it."""

    by_reference = False


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


@pytest.mark.parametrize("by_reference", [True, False])
async def test_references_are_passed_on_before_the_value_is_there_and_values_after_that(
    models: Path, by_reference: bool
) -> None:
    pipeline = split(models)
    handed: list[bool] = []

    class Watched(InProcessMethod if by_reference else ByValue):
        def remote(self, *arguments: object, **options: object) -> InProcessResponse:
            handed.append(inspect.isawaitable(arguments[0]))
            return super().remote(*arguments, **options)

    for handle in (pipeline._encoder, pipeline._generator, pipeline._composer):
        handle.method = Watched

    await pipeline.run([order(0)])

    # the first stage gets samples
    assert handed == [False, by_reference, by_reference]


class Replicas:
    """A handle of several replicas of one deployment; a routed call goes to the first."""

    def __init__(self, *replicas: object) -> None:
        self._replicas = replicas

    def __getattr__(self, method: str) -> InProcessMethod:
        return InProcessMethod(getattr(self._replicas[0], method))

    def broadcast(self, method: str, *arguments: object) -> Broadcast:
        return Broadcast([getattr(replica, method)(*arguments) for replica in self._replicas])


class PreparingReplica:
    """Remembers what it prepared, or refuses."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.prepared: list[str] = []
        self._failure = failure

    async def prepare(self, model: str, version: str) -> None:
        if self._failure is not None:
            raise self._failure
        self.prepared.append(version)


async def test_every_replica_of_every_stage_prepares_a_version() -> None:
    stages = [[PreparingReplica() for _ in range(3)] for _ in range(3)]

    await SplitPipeline(*(Replicas(*replicas) for replicas in stages)).prepare("tiny", "v2")

    assert all("v2" in replica.prepared for replicas in stages for replica in replicas)


async def test_one_replica_that_cannot_prepare_a_version_is_enough_to_keep_it_back() -> None:
    refusal = UnknownVersion(model="tiny", version="v2", known=["v1"])
    stages = [Replicas(PreparingReplica(), PreparingReplica(failure)) for failure in (None, None, refusal)]

    with pytest.raises(UnknownVersion):
        await SplitPipeline(*stages).prepare("tiny", "v2")


class DyingComposer:
    """Dies under the first batches: its callers meet what Ray makes of that."""

    def __init__(self, *deaths: Exception) -> None:
        self.deaths = list(deaths)

    async def compose(
        self, bodies: object, representations: Sequence[Representation], *, tags: list[bytes], **options: object
    ) -> Timed[list[bytes]]:
        if self.deaths:
            raise self.deaths.pop(0)
        return Timed(tags, StageTimes(), np.full(len(tags), np.inf))


class QuietStage:
    """Computes nothing."""

    async def encode(self, *arguments: object, **options: object) -> None:
        pass

    async def generate(self, *arguments: object, **options: object) -> None:
        pass


def chained(cause: Exception) -> Exception:
    """What Serve raises where the replica that made an argument has died."""
    error = RayServeException("an upstream actor died before finishing a dependent task")
    error.__cause__ = cause
    return error


DEATHS = {
    "died": ActorDiedError(),
    "unavailable": ActorUnavailableError("Actor is unavailable.", None),
    "upstream": chained(ActorDiedError()),
    "lost": ObjectLostError("00" * 28, None, ""),
    "gone": ReplicaUnavailableError("composer-1"),
    "none-left": DeploymentUnavailableError("Composer"),
}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS.keys())
async def test_a_batch_whose_replica_dies_is_sent_to_another_one(death: Exception) -> None:
    composer = DyingComposer(death)
    quiet = InProcessHandle(QuietStage())

    (outcome,) = await SplitPipeline(quiet, quiet, InProcessHandle(composer)).run([order(0)])

    assert outcome.content == order(0).tag
    assert not composer.deaths


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS.keys())
async def test_a_batch_that_meets_a_second_death_may_be_retried_by_its_callers(death: Exception) -> None:
    quiet = InProcessHandle(QuietStage())

    with pytest.raises(VersionNotReady):
        await SplitPipeline(quiet, quiet, InProcessHandle(DyingComposer(death, death))).run([order(0)])


class AbsentComposer(DyingComposer):
    """Died, and its replacement is not there yet: Serve waits for it."""

    def __init__(self) -> None:
        super().__init__(ActorDiedError())
        self.is_back, self.takes_s = False, 0.0

    async def compose(self, *arguments: object, **options: object) -> Timed[list[bytes]]:
        await pass_seconds(self.takes_s)
        if not self.deaths and not self.is_back:
            await asyncio.get_running_loop().create_future()
        return await super().compose(*arguments, **options)


def test_nobody_waits_long_for_the_only_replica_to_come_back() -> None:
    composer, quiet = AbsentComposer(), InProcessHandle(QuietStage())
    pipeline = SplitPipeline(quiet, quiet, InProcessHandle(composer))
    refusals: list[float] = []

    async def main() -> list[object]:
        for _ in range(2):
            started_s = now_s()
            with pytest.raises(VersionNotReady):
                await pipeline.run([order(0)])
            refusals.append(now_s() - started_s)
        composer.is_back = True
        await pipeline.run([order(0)])
        composer.takes_s = 3.0  # longer than an outage is waited for
        return await pipeline.run([order(0)])

    (outcome,) = run_virtually(main())

    assert refusals == [2.0, 2.0]
    assert outcome.content == order(0).tag


async def test_a_fault_of_ours_is_no_outage() -> None:
    composer = DyingComposer(RuntimeError("a fault"))
    quiet = InProcessHandle(QuietStage())

    with pytest.raises(RuntimeError, match="a fault"):
        await SplitPipeline(quiet, quiet, InProcessHandle(composer)).run([order(0)])
