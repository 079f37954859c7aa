"""The composer seals packages that a device decodes, and writes device models that need nothing more."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from deployments.composer import Composer
from deployments.encoder import Encoder
from deployments.parameter_generator import ParameterGenerator
from duet.device.runtime import DeviceModel
from duet.protocol.errors import NonFiniteParameters
from duet.protocol.package import ParameterPackage, encode_body
from duet.protocol.representation import SHARED, Dtype, Form, Representation
from duet.registry import PublishedVersion
from tests.published_version import ITEM_IDS, RANK, TABLE, shared_parameters

V1 = {"model": "tiny", "version": "v1"}
SAMPLE = list(ITEM_IDS[:4])
FULL = Representation(Form.FULL, Dtype.FLOAT32)
FACTORS = Representation(Form.FACTORS, Dtype.FLOAT32, RANK)
COMPOSED = Representation(Form.COMPOSED, Dtype.FLOAT32, RANK)
TAG = b"12345678"


def bodies_of(models: Path, *representations: Representation) -> list[bytes | None]:
    embeddings = Encoder(models).encode([SAMPLE] * len(representations), **V1)
    return ParameterGenerator(models).generate(embeddings, list(representations), **V1)


def compose(models: Path, body: bytes | None, representation: Representation, answer: str = "package") -> object:
    (content,) = Composer(models).compose([body], [representation], tags=[TAG], answers=[answer], **V1)
    return content


@pytest.mark.parametrize("representation", [SHARED, FACTORS, FULL, COMPOSED], ids=str)
def test_a_package_names_its_version_tag_and_representation(
    models: Path, published: PublishedVersion, representation: Representation
) -> None:
    (body,) = bodies_of(models, representation)

    content = compose(models, body, representation)

    package = ParameterPackage.decode(content, TABLE, version=published.digest)
    assert (package.representation, package.tag, package.body) == (representation, TAG, body)


@pytest.mark.parametrize("representation", [FACTORS, FULL, COMPOSED], ids=str)
def test_a_composed_device_model_scores_like_one_with_the_package_applied(
    models: Path, published: PublishedVersion, representation: Representation
) -> None:
    (body,) = bodies_of(models, representation)
    device = DeviceModel.load(published.path("device.onnx"))
    shared = device.scores(SAMPLE)
    package = ParameterPackage.decode(compose(models, body, representation), TABLE)
    device.swap(package.compose(shared_parameters(seed=0)))

    finished = DeviceModel.load(compose(models, body, representation, "onnx"))

    np.testing.assert_allclose(finished.scores(SAMPLE), device.scores(SAMPLE), rtol=1e-5, atol=1e-5)
    assert np.abs(finished.scores(SAMPLE) - shared).max() > 0.1


def test_one_device_model_does_not_leak_into_the_next(models: Path) -> None:
    first, second = bodies_of(models, FULL, FACTORS)
    composer = Composer(models)
    tags, answers = [TAG] * 3, ["onnx"] * 3

    contents = composer.compose([first, second, first], [FULL, FACTORS, FULL], tags=tags, answers=answers, **V1)

    assert contents[0] == contents[2] != contents[1]
    onnx.checker.check_model(onnx.load_from_string(contents[1]), full_check=True)


def test_device_models_that_were_sent_take_no_memory_of_the_one_they_are_made_of(models: Path) -> None:
    # protobuf keeps what is replaced in a message until the message goes: a kept one that is changed grows for ever
    (body,) = bodies_of(models, FACTORS)
    composer = Composer(models)
    prepared = composer._versions.get("tiny", "v1")
    before = prepared.device_model.SerializeToString()

    composer.compose([body], [FACTORS], tags=[TAG], answers=["onnx"], **V1)

    assert prepared.device_model.SerializeToString() == before


def test_parameters_that_are_not_finite_are_never_sent(models: Path) -> None:
    (good,) = bodies_of(models, FULL)

    contents = Composer(models).compose(
        [None, good], [FULL, FULL], tags=[TAG, TAG], answers=["package", "package"], **V1
    )

    assert isinstance(contents[0], NonFiniteParameters)
    assert (contents[0].model, contents[0].version) == ("tiny", "v1")
    assert isinstance(contents[1], bytes)


def test_a_sum_that_overflows_is_never_sent(models: Path) -> None:
    package = ParameterPackage.decode(compose(models, bodies_of(models, FACTORS)[0], FACTORS), TABLE)
    values = package.values()
    huge = np.full_like(values["output"].left, 3e30)
    values["output"] = type(values["output"])(
        left=huge, right=np.full_like(values["output"].right, 3e30), shift=huge[0]
    )

    content = compose(models, encode_body(values, FACTORS, TABLE), FACTORS, "onnx")

    assert isinstance(content, NonFiniteParameters)


def test_a_prepared_version_parses_nothing_for_its_first_device_model(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (body,) = bodies_of(models, FACTORS)
    composer = Composer(models)
    composer.prepare("tiny", "v1")

    monkeypatch.delattr(onnx, "load")
    (content,) = composer.compose([body], [FACTORS], tags=[TAG], answers=["onnx"], **V1)

    assert isinstance(content, bytes)
