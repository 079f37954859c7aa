"""Reads what a published ``device.onnx`` says about itself, and checks that the graph agrees.

The names are those of :mod:`duet.protocol.device_model`. The file holds the shared values twice, as defaults of the
graph and in its metadata, because ONNX Runtime does not give out the former and the ``onnx`` package does not belong on
a device; the two are compared when the file is opened.
"""

import json
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from duet.protocol.device_model import (
    LAYERS_KEY,
    SCORES,
    SHARED_KEY,
    SIGNATURE_KEY,
    VOCABULARY_KEY,
    Parameters,
    decode_shared,
    weight_inputs,
)
from duet.protocol.errors import NoDeviceModel
from duet.protocol.layers import LayerTable
from duet.protocol.signature import Signature, Vocabulary, signature_from_json

_SAMPLES = 16  # enough that hardly a unit is at rest in all of them
_TYPES = {"tensor(int64)": np.int64, "tensor(uint8)": np.uint8, "tensor(float16)": np.float16}  # any other is float32


@dataclass(frozen=True)
class DeviceFile:
    """What a device model is: its dynamic layers with their shared values, its sample and its catalogue."""

    table: LayerTable
    signature: Signature
    vocabulary: Vocabulary
    shared: Parameters


def read_device_file(session: onnxruntime.InferenceSession, name: str) -> DeviceFile:
    """Read the metadata of an open device model and check the graph against them.

    Raises:
        NoDeviceModel: If metadata are missing or malformed, or the graph is not the one that they describe.
    """
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        table = LayerTable.from_json(json.loads(metadata[LAYERS_KEY]))
        file = DeviceFile(
            table=table,
            signature=signature_from_json(json.loads(metadata[SIGNATURE_KEY])),
            vocabulary=Vocabulary.from_json(json.loads(metadata[VOCABULARY_KEY])),
            shared=decode_shared(metadata[SHARED_KEY], table),
        )
    except KeyError as error:
        raise NoDeviceModel(model=name, reason=f"its metadata lack {error}") from error
    except (ValueError, TypeError) as error:
        raise NoDeviceModel(model=name, reason=f"its metadata cannot be read ({error})") from error
    _check_weights(session, table, name)
    _check_shared(session, file, name)
    return file


def _check_weights(session: onnxruntime.InferenceSession, table: LayerTable, name: str) -> None:
    found = {value.name: (value.type, value.shape) for value in session.get_overridable_initializers()}
    for layer in table.layers:
        weight, bias = weight_inputs(layer)
        for key, shape in ((weight, [layer.outputs, layer.inputs]), (bias, [layer.outputs])):
            if found.get(key) != ("tensor(float)", shape):
                received = " ".join(map(str, found[key])) if key in found else "none"
                reason = f"expected the overridable initializer {key} tensor(float) {shape}, got {received}"
                raise NoDeviceModel(model=name, reason=reason)


def _check_shared(session: onnxruntime.InferenceSession, file: DeviceFile, name: str) -> None:
    """Run made-up samples with the defaults of the graph, then with the shared values of the metadata."""
    samples = {value.name: _made_up(value, len(file.vocabulary)) for value in session.get_inputs()}
    feed = {
        key: array
        for layer in file.table.layers
        for key, array in zip(weight_inputs(layer), file.shared[layer.name], strict=True)
    }
    try:
        (default,) = session.run([SCORES], samples)
        (fed,) = session.run([SCORES], {**samples, **feed})
    except Exception as error:  # the exceptions of ONNX Runtime share no base class
        raise NoDeviceModel(model=name, reason=f"ONNX Runtime cannot run it ({error})") from error
    if default.shape[1:] != (len(file.vocabulary),):
        reason = f"expected scores [B, {len(file.vocabulary)}] for its vocabulary, got {list(default.shape)}"
        raise NoDeviceModel(model=name, reason=reason)
    if not np.allclose(default, fed, rtol=1e-4, atol=1e-5):
        raise NoDeviceModel(model=name, reason=f"its {SHARED_KEY} are not the values in its graph")


def _made_up(value: onnxruntime.NodeArg, item_count: int) -> NDArray[np.generic]:
    # one item all along for a list of items, another in every row; ordinary numbers for anything else
    rows = np.arange(_SAMPLES) % item_count + 1
    shape = [_SAMPLES, *(size if isinstance(size, int) else 1 for size in value.shape[1:])]
    column = rows.reshape(-1, *(1 for _ in shape[1:]))
    return np.broadcast_to(column, shape).astype(_TYPES.get(value.type, np.float32))
