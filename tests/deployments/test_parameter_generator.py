"""The generator equals the protocol's reference byte for byte, and computes through the kernels alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

import deployments.parameter_generator
from deployments.parameter_generator import ParameterGenerator
from duet.protocol.errors import CorruptVersion
from duet.protocol.package import LayerValues, encode_body
from duet.protocol.representation import SHARED, Dtype, Form, Representation
from duet.registry import PublishedVersion
from kernels.host_slabs import is_built
from tests.published_version import RANK, TABLE, shared_parameters, split_values, write_version

V1 = {"model": "tiny", "version": "v1"}
REPRESENTATIONS = [
    *(Representation(Form.FACTORS, dtype, rank) for dtype in Dtype for rank in range(1, RANK + 1)),
    *(Representation(Form.FULL, dtype) for dtype in Dtype),
    *(Representation(Form.COMPOSED, dtype, RANK) for dtype in Dtype),
]


HOST_BACKENDS = ["reference", "compiled"] if is_built() else ["reference"]


@pytest.fixture(scope="module")
def golden(published: PublishedVersion) -> dict[str, NDArray[np.float32]]:
    return safetensors.numpy.load_file(published.path("golden.safetensors"))


def reference_body(golden: Mapping[str, NDArray[np.float32]], row: int, representation: Representation) -> bytes:
    """What the protocol's own encoder makes of the golden values of one device."""
    if representation.form is Form.FULL:
        return encode_body(split_values(golden["output.full"][row], "full"), representation, TABLE)
    factors = split_values(golden["output.factors"][row], "factors")
    if representation.form is Form.FACTORS:
        return encode_body(factors, representation, TABLE)
    composed = {}
    for name, (weight, bias) in shared_parameters(seed=0).items():
        values = factors[name]
        product = values.left[: representation.rank].T @ values.right[: representation.rank]
        composed[name] = LayerValues(weight=weight + product, shift=bias + values.shift)
    return encode_body(composed, representation, TABLE)


def numbers(body: bytes, representation: Representation) -> dict[tuple[str, str], NDArray[np.float32]]:
    return {(slot.layer, slot.role): slot.read(body).astype(np.float32) for slot in TABLE.slots(representation)}


@pytest.mark.parametrize("backend", HOST_BACKENDS)
@pytest.mark.parametrize("representation", REPRESENTATIONS, ids=str)
def test_a_body_is_what_the_reference_encoder_writes(
    models: Path,
    golden: dict[str, NDArray[np.float32]],
    representation: Representation,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DUET_KERNELS", backend)
    embeddings = golden["output.embedding"]

    bodies = ParameterGenerator(models).generate(embeddings, [representation] * len(embeddings), **V1)

    for row, body in enumerate(bodies):
        expected = reference_body(golden, row, representation)
        assert body is not None
        assert len(body) == len(expected)
        # sums differ in their last bit between libraries, so a quantum may fall to the other side
        tolerance = 1.01 if representation.dtype is Dtype.INT8 else 2e-3
        for key, array in numbers(expected, representation).items():
            np.testing.assert_allclose(numbers(body, representation)[key], array, atol=tolerance, rtol=2e-3)


def test_a_mixed_batch_gives_each_device_what_it_would_get_alone(
    models: Path, golden: dict[str, NDArray[np.float32]]
) -> None:
    generator = ParameterGenerator(models)
    wanted = [REPRESENTATIONS[0], SHARED, REPRESENTATIONS[-1], REPRESENTATIONS[9], REPRESENTATIONS[0]]
    embeddings = golden["output.embedding"][[0, 1, 2, 3, 1]]

    together = generator.generate(embeddings, wanted, **V1)

    alone = [generator.generate(row[None], [one], **V1)[0] for row, one in zip(embeddings, wanted, strict=True)]
    for one, body, expected in zip(wanted, together, alone, strict=True):
        assert body is not None
        assert expected is not None
        for key, array in numbers(expected, one).items():
            # a matrix product rounds by the size of its batch
            np.testing.assert_allclose(numbers(body, one)[key], array, rtol=1e-4, atol=1e-5)
    assert together[1] == b""
    assert together[0] != together[4]


def test_a_device_whose_numbers_are_not_finite_gets_none_and_its_neighbours_get_theirs(
    models: Path, golden: dict[str, NDArray[np.float32]]
) -> None:
    embeddings = golden["output.embedding"].copy()
    embeddings[1, 0] = np.nan
    embeddings[2] *= 1e6  # too large for float16
    half = Representation(Form.FACTORS, Dtype.FLOAT16, RANK)

    bodies = ParameterGenerator(models).generate(embeddings, [half] * len(embeddings), **V1)

    assert [body is None for body in bodies] == [False, True, True, False]


@pytest.mark.parametrize(
    ("backend", "kernel", "representation"),
    [
        ("reference", "synthesize_factors", REPRESENTATIONS[0]),
        ("reference", "quantize_factors", REPRESENTATIONS[0]),
        ("reference", "compose_weights", REPRESENTATIONS[-1]),
        *((each, "HostGeneration.generate", REPRESENTATIONS[0]) for each in HOST_BACKENDS[1:]),
    ],
)
def test_nothing_is_generated_without_the_kernels(
    models: Path,
    golden: dict[str, NDArray[np.float32]],
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    kernel: str,
    representation: Representation,
) -> None:
    monkeypatch.setenv("DUET_KERNELS", backend)
    generator = ParameterGenerator(models)
    generator.prepare(**V1)

    def broken(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(f"deployments.parameter_generator.{kernel}", broken)

    with pytest.raises(RuntimeError, match="no kernel"):
        generator.generate(golden["output.embedding"][:1], [representation], **V1)


@pytest.mark.parametrize("head", ["factors", "full"])
def test_a_version_that_computes_something_else_than_its_golden_output_is_refused(tmp_path: Path, head: str) -> None:
    write_version(tmp_path, golden_error={f"output.{head}": 0.1})

    with pytest.raises(CorruptVersion, match=f"golden {head}"):
        ParameterGenerator(tmp_path).prepare("tiny", "v1")


@pytest.mark.gpu
@pytest.mark.parametrize("representation", REPRESENTATIONS, ids=str)
def test_an_accelerator_generates_what_the_cpu_does(
    models: Path, golden: dict[str, NDArray[np.float32]], representation: Representation
) -> None:
    embeddings = golden["output.embedding"]
    wanted = [representation] * len(embeddings)

    near = ParameterGenerator(models).generate(embeddings, wanted, **V1)
    far = ParameterGenerator(models, accelerator="cuda").generate(embeddings, wanted, **V1)

    for expected, body in zip(near, far, strict=True):
        assert expected is not None
        assert body is not None
        tolerance = 1.01 if representation.dtype is Dtype.INT8 else 2e-3
        for key, array in numbers(expected, representation).items():
            np.testing.assert_allclose(numbers(body, representation)[key], array, atol=tolerance, rtol=2e-3)


def test_a_prepared_version_lays_out_nothing_for_its_first_batches(
    models: Path, golden: dict[str, NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = ParameterGenerator(models)
    generator.prepare("tiny", "v1")

    def too_late(layouts: object) -> NoReturn:
        raise AssertionError("laid out while requests wait")

    monkeypatch.setattr(deployments.parameter_generator, "Plans", too_late)
    factors, full, composed = REPRESENTATIONS[0], REPRESENTATIONS[-4], REPRESENTATIONS[-1]

    for batch in ([factors], [full], [composed], [factors, full], [factors, composed], [factors, full, composed]):
        assert None not in generator.generate(golden["output.embedding"][: len(batch)], batch, **V1)


def test_devices_that_generate_get_their_embedding_beside_others_in_one_batch(
    tmp_path: Path, golden: dict[str, NDArray[np.float32]]
) -> None:
    write_version(tmp_path, decoders=True)
    embeddings = golden["output.embedding"][:4].copy()
    embeddings[3, 1] = 1e5  # beyond float16
    half, exact = (Representation(Form.EMBEDDING, dtype) for dtype in (Dtype.FLOAT16, Dtype.FLOAT32))
    factors = Representation(Form.FACTORS, Dtype.FLOAT32, RANK)
    generator = ParameterGenerator(tmp_path)

    mixed = generator.generate(embeddings, [half, factors, exact, half], **V1)
    alone = generator.generate(embeddings, [exact] * 4, **V1)

    assert mixed[0] == embeddings[0].astype("<f2").tobytes()
    assert mixed[1] == generator.generate(embeddings, [factors] * 4, **V1)[1]
    assert mixed[2] == alone[2] == embeddings[2].astype("<f4").tobytes()
    assert mixed[3] is None
    assert alone[3] is not None
