"""Both placements answer embeddings as they answer the samples these come from, mixed in one batch or by themselves."""

from pathlib import Path

import numpy as np
import pytest

from deployments.device_embeddings import DeviceEmbedding
from deployments.encoder import Encoder
from deployments.orders import Answered, Order
from deployments.pipeline import Pipeline, SplitPipeline
from duet.protocol.package import ParameterPackage
from duet.protocol.representation import Dtype, Form, Representation
from tests.deployments.test_pipeline import InProcessMethod, colocated, split
from tests.published_version import EMBEDDING, ITEM_IDS, TABLE

EXACT = Representation(Form.FACTORS, Dtype.FLOAT32, 3)
SAMPLES = [list(ITEM_IDS[place : place + 3]) for place in range(6)]


@pytest.fixture(params=[colocated, split], ids=["colocated", "split"])
def pipeline(request: pytest.FixtureRequest, models: Path) -> Pipeline:
    return request.param(models)


@pytest.fixture
def embedded(models: Path) -> list[DeviceEmbedding]:
    """What devices would send in the place of the samples."""
    embeddings = Encoder(models).encode(SAMPLES, model="tiny", version="v1")
    return [DeviceEmbedding(row.astype("<f2").tobytes()) for row in embeddings]


def order(number: int, brought: object) -> Order:
    return Order("tiny", "v1", brought, EXACT, bytes([number]) * 8, "package")


async def values_of(pipeline: Pipeline, inputs: list[object]) -> list[np.ndarray]:
    """All that is generated for each input, flat."""
    flat = []
    for outcome in await pipeline.run([order(number, brought) for number, brought in enumerate(inputs)]):
        assert isinstance(outcome, Answered)
        layers = ParameterPackage.decode(outcome.content, TABLE).values().values()
        flat.append(
            np.concatenate([array.ravel() for layer in layers for array in (layer.left, layer.right, layer.shift)])
        )
    return flat


async def test_an_embedding_leads_to_the_parameters_of_its_sample_up_to_its_rounding(
    pipeline: Pipeline, embedded: list[DeviceEmbedding]
) -> None:
    from_samples = await values_of(pipeline, list(SAMPLES))
    from_embeddings = await values_of(pipeline, list(embedded))

    # values = weight @ z + bias: float16 moves each of the D numbers of z, all within ±1, by 2^-12 at most, and the
    # weights are drawn with a deviation of 0.5, of which four hardly occur
    tolerance = EMBEDDING * 4 * 0.5 * 2.0**-12
    for sampled, given in zip(from_samples, from_embeddings, strict=True):
        np.testing.assert_allclose(given, sampled, rtol=0, atol=tolerance)
    # such a tolerance tells one sample from another
    assert min(np.abs(first - from_samples[0]).max() for first in from_samples[1:]) > 20 * tolerance


async def test_a_batch_mixes_samples_and_embeddings(pipeline: Pipeline, embedded: list[DeviceEmbedding]) -> None:
    inputs = [embedded[place] if place % 3 else sample for place, sample in enumerate(SAMPLES)]

    mixed = await values_of(pipeline, inputs)

    for brought, values in zip(inputs, mixed, strict=True):
        (alone,) = await values_of(pipeline, [brought])
        np.testing.assert_allclose(values, alone, rtol=1e-5, atol=1e-6)


async def test_a_batch_of_embeddings_makes_no_hop_to_the_encoder(models: Path, embedded: list[DeviceEmbedding]) -> None:
    pipeline, asked = split(models), []

    class Watched(InProcessMethod):
        def remote(self, *arguments: object, **options: object) -> object:
            asked.append(arguments[0])
            return super().remote(*arguments, **options)

    assert isinstance(pipeline, SplitPipeline)
    pipeline._encoder.method = Watched

    await values_of(pipeline, list(embedded))
    await values_of(pipeline, [SAMPLES[0], embedded[1]])

    assert asked == [[SAMPLES[0], embedded[1]]]
