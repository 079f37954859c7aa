"""What a published ``device.onnx`` promises: its names, and the shared values that its metadata carry.

``metadata_props``: ``duet.layers``, ``duet.signature`` and ``duet.vocabulary`` as JSON, and ``duet.shared``: base64 of
little-endian float32, per layer in table order the shared weight ``[M, K]`` row by row, then the shared bias ``[M]``.
A runtime needs them to compose factors, and ONNX Runtime does not give out the defaults of overridable initializers.

Shapes: M output features, K input features.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from duet.protocol.layers import DynamicLayer, LayerTable

SCORES = "scores"
"""Name of the graph's output, float32 ``[B, N]``."""

GOLDEN_DEVICE_INPUT = "device.input."
"""What the names of the device model's golden inputs start with, where it looks at less of a sample than is sent.

Where it looks at all of it, they are those of the encoder, ``input.<name>``.
"""

LAYERS_KEY, SIGNATURE_KEY, VOCABULARY_KEY, SHARED_KEY = (
    "duet.layers",
    "duet.signature",
    "duet.vocabulary",
    "duet.shared",
)

Parameters: TypeAlias = Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
"""Weight ``[M, K]`` and bias ``[M]`` of every dynamic layer, by layer name."""


def weight_inputs(layer: DynamicLayer) -> tuple[str, str]:
    """Return the names of the overridable initializers of ``layer``: weight, bias."""
    return f"dyn.{layer.name}.weight", f"dyn.{layer.name}.bias"


def encode_shared(shared: Parameters, table: LayerTable) -> str:
    """Write the shared values as the text of ``duet.shared``."""
    arrays = [array for layer in table.layers for array in shared[layer.name]]
    return base64.b64encode(b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays)).decode()


def decode_shared(text: str, table: LayerTable) -> Parameters:
    """Read the shared values from the text of ``duet.shared``.

    Raises:
        ValueError: If the text is not base64, or not as long as the layer table asks for.
    """
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"Expected base64 of float32 values in {SHARED_KEY}, got {error}.") from error
    expected = sum(layer.outputs * (layer.inputs + 1) for layer in table.layers)
    if len(values) != expected:
        raise ValueError(f"Expected {expected} values in {SHARED_KEY}, got {len(values)}.")
    values.setflags(write=False)
    shared: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = {}
    start = 0
    for layer in table.layers:
        middle = start + layer.outputs * layer.inputs
        end = middle + layer.outputs
        shared[layer.name] = (values[start:middle].reshape(layer.outputs, layer.inputs), values[middle:end])
        start = end
    return shared
