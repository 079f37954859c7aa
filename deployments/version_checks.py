"""What a version must prove before a stage serves it: its tensors, and its golden outputs on this machine.

Hashes say that the files are those that were published; these checks say that they fit the manifest and work here.

Shapes: D embedding, P flat parameters, M and K features of a layer, N catalogue items.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import safetensors.numpy

from duet.protocol.device_model import GOLDEN_DEVICE_INPUT, LAYERS_KEY, SCORES, Parameters, weight_inputs
from duet.protocol.errors import CorruptVersion
from duet.protocol.layers import LayerTable
from duet.protocol.manifest import Manifest
from duet.protocol.package import ParameterPackage, seal
from duet.protocol.representation import Dtype, Form, Representation
from duet.registry import PublishedVersion

Tensors = Mapping[str, npt.NDArray[np.generic]]

_RELATIVE_TOLERANCE = 2e-3
_ABSOLUTE_TOLERANCE = 2e-4


def generator_tensors(published: PublishedVersion) -> dict[str, npt.NDArray[np.float32]]:
    """Read ``generator.safetensors``.

    Returns:
        Weight ``[P, D]`` and bias ``[P]`` of every head, weight ``[M, K]`` and bias ``[M]`` of every shared layer.

    Raises:
        CorruptVersion: If a tensor is missing, is not float32, has another shape than the manifest tells, or holds a
            number that is not finite.
    """
    tensors = safetensors.numpy.load_file(published.path("generator.safetensors"))
    for name, shape in _expected_shapes(published):
        tensor = tensors.get(name)
        if tensor is None:
            raise CorruptVersion(path=published.folder, reason=f"its generator has no tensor {name}")
        if tensor.shape != shape or tensor.dtype != np.float32:
            found = f"{tensor.dtype} {list(tensor.shape)}"
            reason = f"its tensor {name} is {found} and its manifest asks for float32 {list(shape)}"
            raise CorruptVersion(path=published.folder, reason=reason)
        if not np.isfinite(tensor).all():
            raise CorruptVersion(path=published.folder, reason=f"its tensor {name} holds numbers that are not finite")
    return tensors


def _expected_shapes(published: PublishedVersion) -> Iterator[tuple[str, tuple[int, ...]]]:
    manifest = published.manifest
    for head in manifest.heads:
        form, rank = (Form.FACTORS, manifest.rank) if head == "factors" else (Form.FULL, 0)
        slots = manifest.layers.slots(Representation(form, Dtype.FLOAT32, rank))
        values = sum(slot.rows * slot.columns for slot in slots)
        yield f"{head}.weight", (values, manifest.embedding_dim)
        yield f"{head}.bias", (values,)
    for layer in manifest.layers:
        yield f"shared.{layer.name}.weight", (layer.outputs, layer.inputs)
        yield f"shared.{layer.name}.bias", (layer.outputs,)


def shared_parameters(tensors: Tensors, table: LayerTable) -> Parameters:
    """Return the shared parameters by layer, from the tensors of the generator."""
    return {
        layer.name: (
            np.asarray(tensors[f"shared.{layer.name}.weight"], np.float32),
            np.asarray(tensors[f"shared.{layer.name}.bias"], np.float32),
        )
        for layer in table
    }


def golden_tensors(published: PublishedVersion) -> dict[str, npt.NDArray[np.generic]]:
    """Read ``golden.safetensors``: inputs, and what must come out for them."""
    tensors: dict[str, npt.NDArray[np.generic]] = safetensors.numpy.load_file(published.path("golden.safetensors"))
    return tensors


def open_session(path: Path, *, intra_op_threads: int = 1) -> onnxruntime.InferenceSession:
    """Build a session that computes on the CPU.

    Args:
        path: Of the ONNX file.
        intra_op_threads: With one, a session has no threads of its own: by default it takes every core and spins on it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check_golden(
    published: PublishedVersion, what: str, received: npt.NDArray[np.float32], expected: npt.NDArray[np.generic]
) -> None:
    """Refuse a version whose golden inputs do not lead to its golden outputs on this machine.

    Raises:
        CorruptVersion: If the outputs differ by more than rounding does.
    """
    if received.shape != expected.shape:
        reason = f"its golden {what} is {list(expected.shape)} and this machine computes {list(received.shape)}"
        raise CorruptVersion(path=published.folder, reason=reason)
    if not np.allclose(received, expected, rtol=_RELATIVE_TOLERANCE, atol=_ABSOLUTE_TOLERANCE):
        worst = float(np.abs(received - np.asarray(expected, np.float32)).max())
        reason = f"this machine computes its golden {what} with an error of up to {worst:.3g}"
        raise CorruptVersion(path=published.folder, reason=reason)


def everything_emitted(manifest: Manifest) -> Representation:
    """Name the representation that carries all that the factors head emits, or the full one where there is no other."""
    if "factors" in manifest.heads:
        return Representation(Form.FACTORS, Dtype.FLOAT32, manifest.rank)
    return Representation(Form.FULL, Dtype.FLOAT32)


def check_device_model(published: PublishedVersion, shared: Parameters) -> None:
    """Run ``device.onnx`` as a device does, with the golden parameters through package bytes, and compare its scores.

    Raises:
        CorruptVersion: If it is no device model of this version, or scores otherwise.
    """
    manifest, golden = published.manifest, golden_tensors(published)
    session = open_session(published.path("device.onnx"))
    if LAYERS_KEY not in session.get_modelmeta().custom_metadata_map:
        raise CorruptVersion(path=published.folder, reason=f"its device.onnx carries no {LAYERS_KEY}")
    representation = everything_emitted(manifest)
    head = representation.form.name.lower()
    slots, rows = manifest.layers.slots(representation), np.asarray(golden[f"output.{head}"], np.float32)
    scores = []
    for row, values in enumerate(rows):
        body, start = bytearray(manifest.layers.body_bytes(representation)), 0
        for slot in slots:
            count = slot.rows * slot.columns
            body[slot.offset : slot.end] = values[start : start + count].astype("<f4").tobytes()
            start += count
        package = seal(bytes(body), representation=representation, version=published.digest, table=manifest.layers)
        parameters = ParameterPackage.decode(package, manifest.layers).compose(shared)
        inputs = {
            name: golden.get(f"{GOLDEN_DEVICE_INPUT}{name}", golden[f"input.{name}"])[row : row + 1]
            for name in manifest.read_signature().input_names
        }
        for layer in manifest.layers:
            inputs |= dict(zip(weight_inputs(layer), parameters[layer.name], strict=True))
        scores.append(session.run([SCORES], inputs)[0])
    check_golden(published, SCORES, np.concatenate(scores), golden[f"output.{SCORES}"])
