"""The form ``embedding``: the cloud sends the embedding alone, and the device generates with decoders that it keeps.

    (weight, bias) of every dynamic layer = decoders(embedding)        ``decoders.onnx``: generated, shared added

A device downloads the decoders once a version, and gets a few dozen numbers at each update. Which decoders it holds it
says with each request, by the hash in the manifest; others are answered with factors.

Shapes: D embedding, M and K features of a layer.
"""

import numpy as np

from duet.protocol.layers import LayerTable
from duet.protocol.package import Array, ParameterPackage
from duet.protocol.representation import Form, Representation

DECODERS_FILE = "decoders.onnx"
"""The file of a version that turns an embedding into parameters.

Input ``embedding`` float32 ``[D]``; outputs as :func:`duet.protocol.device_model.weight_inputs` names them, weight
``[M, K]`` and bias ``[M]`` of every layer, finished.
"""

DECODERS_INPUT = "embedding"
"""Name of the input of its graph."""


NAME_CHARACTERS = 32


def name_of(sha256: str) -> str:
    """Name decoders in a request: the first half of the file's SHA-256, hexadecimal; every character costs uplink."""
    return sha256[:NAME_CHARACTERS]


def encode_embedding(embedding: Array, representation: Representation, table: LayerTable) -> bytes | None:
    """Write an embedding ``[D]`` float32 in package layout; None if a number is not finite as stored."""
    (slot,) = table.slots(representation)
    with np.errstate(over="ignore"):
        stored = embedding.astype(slot.numpy_dtype)
    if not np.isfinite(stored).all():
        return None
    return stored.tobytes().ljust(table.body_bytes(representation), b"\0")


def embedding_of(package: ParameterPackage) -> Array:
    """Read the embedding ``[D]`` float32 that a package carries.

    Raises:
        ValueError: If it carries something else.
    """
    if package.representation.form is not Form.EMBEDDING:
        raise ValueError(f"Expected a package of form embedding, got {package.representation}.")
    (slot,) = package.table.slots(package.representation)
    return slot.read(package.body).reshape(-1).astype(np.float32)
