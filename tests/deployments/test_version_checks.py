"""A version whose files were published so, but do not fit or do not work, is refused by the stage that would use it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy

from deployments.composer import Composer
from deployments.encoder import Encoder
from deployments.parameter_generator import ParameterGenerator
from duet.protocol.errors import CorruptVersion
from tests.published_version import write_version

Spoil = Callable[[Path], None]


def tensors(change: Callable[[dict[str, np.ndarray]], None], file: str = "generator") -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / f"{file}.safetensors"
        held = safetensors.numpy.load_file(path)
        change(held)
        safetensors.numpy.save_file(held, path)

    return spoil


def junk(name: str) -> Spoil:
    return lambda folder: (folder / name).write_bytes(b"junk") and None


def not_finite(held: dict[str, np.ndarray]) -> None:
    held["shared.hidden.weight"][0, 0] = np.nan


def other_weights(folder: Path) -> None:
    """A device model whose item table is not the one that the golden scores were computed with."""
    model = onnx.load(folder / "device.onnx")
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "table")
    table.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(table) + np.float32(0.1), "table"))
    onnx.save(model, folder / "device.onnx")


def without_metadata(folder: Path) -> None:
    model = onnx.load(folder / "device.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "device.onnx")


@pytest.mark.parametrize(
    ("stage", "spoil", "reason"),
    [
        (ParameterGenerator, tensors(lambda held: held.pop("factors.weight")), "no tensor factors.weight"),
        (
            ParameterGenerator,
            tensors(lambda held: held.update({"full.bias": held["full.bias"][1:]})),
            r"tensor full.bias is float32 \[\d+\] and its manifest asks for float32 \[\d+\]",
        ),
        (
            ParameterGenerator,
            tensors(lambda held: held.update({"full.bias": held["full.bias"].astype(np.float64)})),
            "tensor full.bias is float64",
        ),
        (ParameterGenerator, tensors(not_finite), "shared.hidden.weight holds numbers that are not finite"),
        (Composer, tensors(not_finite), "shared.hidden.weight holds numbers that are not finite"),
        (ParameterGenerator, junk("generator.safetensors"), "cannot be loaded"),
        (ParameterGenerator, tensors(lambda held: held.pop("output.factors"), "golden"), "cannot be loaded"),
        (Encoder, junk("encoder.onnx"), "cannot be loaded"),
        (Composer, junk("device.onnx"), "cannot be loaded"),
        (Composer, without_metadata, "device.onnx carries no duet.layers"),
        (Composer, other_weights, "golden scores with an error of up to"),
        (Composer, tensors(lambda held: held.pop("output.scores"), "golden"), "cannot be loaded"),
    ],
    ids=[
        "missing-tensor",
        "wrong-shape",
        "wrong-dtype",
        "not-finite",
        "not-finite-for-the-composer",
        "no-safetensors",
        "missing-golden-values",
        "no-encoder",
        "no-device-model",
        "no-metadata",
        "other-scores",
        "missing-golden-scores",
    ],
)
def test_what_does_not_fit_or_work_is_refused_with_the_reason(
    tmp_path: Path, stage: type[Encoder] | type[ParameterGenerator] | type[Composer], spoil: Spoil, reason: str
) -> None:
    write_version(tmp_path, spoil=spoil)

    with pytest.raises(CorruptVersion, match=reason):
        stage(tmp_path).prepare("tiny", "v1")


@pytest.mark.parametrize("stage", [Encoder, ParameterGenerator, Composer])
def test_a_sound_version_is_prepared(
    tmp_path: Path, stage: type[Encoder] | type[ParameterGenerator] | type[Composer]
) -> None:
    write_version(tmp_path)

    stage(tmp_path).prepare("tiny", "v1")
