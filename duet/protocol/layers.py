"""The dynamic layers of a version, and where each of their arrays lies in a package body.

Layers come in table order. Every array starts at a multiple of 16 bytes and so does the end of the body; the bytes
between are zero. An int8 array is preceded by its float16 scales, one a row.

    factors          left [r, M], right [r, K], shift [M]
    full             weight [M, K], shift [M]
    composed         weight [M, K], bias [M]
    embedding        embedding [D], of no layer
    shared           nothing

``M`` output features, ``K`` input features, ``r`` rank, ``D`` embedding. ``left`` is stored rank-major, so the device
computes ``left.T @ right``.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt

from duet.protocol.canonical_json import Json, encode_json
from duet.protocol.representation import Dtype, Form, Representation

ALIGNMENT = 16
DIGEST_BYTES = 16
MAX_BODY_BYTES = 2**32 - 1
_LAYER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


@dataclass(frozen=True)
class DynamicLayer:
    """One linear layer whose weight ``[outputs, inputs]`` and bias ``[outputs]`` are generated for each device.

    Args:
        name: Stands in graph input names and error messages; letters, digits, ``_``, ``.`` and ``-``.
        outputs: Output features, ``M``.
        inputs: Input features, ``K``.

    Raises:
        ValueError: If the name or a size is not usable.
    """

    name: str
    outputs: int
    inputs: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _LAYER_NAME.fullmatch(self.name):
            raise ValueError(f"Expected a layer name of letters, digits, '_', '.' and '-', got {self.name!r:.80}.")
        for what, size in (("outputs", self.outputs), ("inputs", self.inputs)):
            if type(size) is not int or not 1 <= size <= MAX_BODY_BYTES:
                raise ValueError(f"Expected {what} of layer {self.name!r} to be a positive integer, got {size!r:.80}.")


@dataclass(frozen=True)
class Slot:
    """One array of a body: ``rows`` by ``columns`` numbers of ``dtype`` at byte ``offset``, row by row."""

    layer: str
    role: str
    """``left_scale left right_scale right shift weight_scale weight bias embedding``; a vector is one row."""
    offset: int
    rows: int
    columns: int
    dtype: str
    """``float32``, ``float16`` or ``int8``; little-endian in the body."""

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """The dtype as it lies in the body, whatever the byte order of this machine."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def end(self) -> int:
        """The first byte after the array."""
        return self.offset + self.rows * self.columns * self.numpy_dtype.itemsize

    def read(self, body: bytes | memoryview) -> npt.NDArray[np.generic]:
        """View the stored array ``[rows, columns]`` in a body, without a copy."""
        count = self.rows * self.columns
        return np.frombuffer(body, self.numpy_dtype, count, self.offset).reshape(self.rows, self.columns)


@dataclass(frozen=True)
class LayerTable:
    """The dynamic layers of a version, in the order of the package body.

    Args:
        layers: At least one layer; names differ.
        embedding_dim: ``D`` of the version, where it is known; part of no comparison, digest or JSON.

    Raises:
        ValueError: If there is no layer or two share a name.
    """

    layers: tuple[DynamicLayer, ...]
    embedding_dim: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("Expected at least one dynamic layer, got none.")
        if len({layer.name for layer in self.layers}) != len(self.layers):
            raise ValueError(f"Expected layer names to differ, got {[layer.name for layer in self.layers]}.")

    def __iter__(self) -> Iterator[DynamicLayer]:
        return iter(self.layers)

    @cached_property
    def digest(self) -> bytes:
        """First 16 bytes of the SHA-256 of the table's canonical JSON; stands in every package."""
        return hashlib.sha256(encode_json(self.to_json())).digest()[:DIGEST_BYTES]

    @cached_property
    def _sizes(self) -> dict[Representation, int]:
        return {}  # every package asks

    def slots(self, representation: Representation) -> tuple[Slot, ...]:
        """List every array of the body, in order.

        Raises:
            ValueError: If the body would be longer than its 32-bit length field can say, or the size of its embedding
                is not known.
        """
        if representation.form is Form.EMBEDDING:
            if self.embedding_dim is None:
                raise ValueError(f"Expected a layer table that knows its embedding for {representation}, got none.")
            return (Slot("", "embedding", 0, 1, self.embedding_dim, representation.dtype.name.lower()),)
        return _slots(self.layers, representation)

    def body_bytes(self, representation: Representation) -> int:
        """Size the body: a multiple of 16, 0 for the shared representation."""
        size = self._sizes.get(representation)
        if size is None:
            slots = self.slots(representation)
            size = self._sizes[representation] = _aligned(slots[-1].end) if slots else 0
        return size

    def package_bytes(self, representation: Representation) -> int:
        """Size the whole package, header included."""
        return HEADER_BYTES + self.body_bytes(representation)

    def to_json(self) -> list[Json]:
        """Describe the table as a JSON list of ``{"name", "outputs", "inputs"}``."""
        return [{"name": layer.name, "outputs": layer.outputs, "inputs": layer.inputs} for layer in self.layers]

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: If it is anything else.
        """
        if not isinstance(value, list):
            raise ValueError(f"Expected a list of layers, got {value!r:.80}.")
        layers = []
        for entry in value:
            if not isinstance(entry, dict) or entry.keys() != {"name", "outputs", "inputs"}:
                raise ValueError(f"Expected a layer as {{name, outputs, inputs}}, got {entry!r:.80}.")
            layers.append(DynamicLayer(**entry))
        return cls(tuple(layers))


HEADER_BYTES = 64
"""Size of the package header, in front of every body."""


@lru_cache(maxsize=1024)
def _slots(layers: tuple[DynamicLayer, ...], representation: Representation) -> tuple[Slot, ...]:
    slots: list[Slot] = []
    for layer in layers:
        for role, rows, columns, dtype in _arrays(layer, representation):
            offset = _aligned(slots[-1].end) if slots else 0
            slots.append(Slot(layer.name, role, offset, rows, columns, dtype))
    if slots and _aligned(slots[-1].end) > MAX_BODY_BYTES:
        raise ValueError(
            f"Expected a body of at most {MAX_BODY_BYTES} bytes, got {_aligned(slots[-1].end)} for {representation}."
        )
    return tuple(slots)


def _arrays(layer: DynamicLayer, representation: Representation) -> Iterator[tuple[str, int, int, str]]:
    if representation.form is Form.SHARED:
        return
    stored = representation.dtype.name.lower()
    if representation.form is Form.FACTORS:
        matrices = [("left", representation.rank, layer.outputs), ("right", representation.rank, layer.inputs)]
    else:
        matrices = [("weight", layer.outputs, layer.inputs)]
    for role, rows, columns in matrices:
        if representation.dtype is Dtype.INT8:
            yield f"{role}_scale", 1, rows, "float16"
        yield role, rows, columns, stored
    vector = "bias" if representation.form is Form.COMPOSED else "shift"
    yield vector, 1, layer.outputs, "float32" if representation.dtype is Dtype.FLOAT32 else "float16"


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
