"""ParameterPackage <-> bytes: a 64-byte header, then arrays that a device reads with offsets alone.

    0 magic "DUET" | 4 format | 5 form | 6 dtype | 7 rank | 8 body length u32 | 12 CRC-32 u32
    16 version [16] | 32 layer table [16] | 48 tag [8] | 56 reserved, zero [8] | 64 body

Everything is little-endian; the layout of the body is ``layers.py``'s, the words are ``docs/protocol.md``'s. A reader
trusts nothing: what it allocates follows from the layer table it already holds, never from a length that arrived.

Shapes: M output features, K input features, R rank of the generator, r <= R rank of the representation.
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

from duet.protocol.errors import CorruptPackage, UnsupportedPackage, WrongVersion
from duet.protocol.layers import HEADER_BYTES, DynamicLayer, LayerTable, Slot
from duet.protocol.representation import MAX_RANK, Dtype, Form, Representation

FORMAT = 1
MAGIC = b"DUET"
MEDIA_TYPE = "application/vnd.duet.package"
VERSION_BYTES = 16
TAG_BYTES = 8
INT8_LIMIT = 127
SMALLEST_SCALE = np.float16(2.0**-24)
"""Smallest positive float16, subnormal: the scale of a row too small for any other, so that no scale is zero."""

_HEADER = struct.Struct("<4sBBBBII16s16s8s8s")
_CRC_OFFSET = 12
_RESERVED = bytes(8)

Array: TypeAlias = npt.NDArray[np.float32]
Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True)
class LayerValues:
    """The numbers of one dynamic layer, float32; which are there depends on the form.

    Args:
        left: ``[R, M]``, rank-major, for factors.
        right: ``[R, K]``, for factors.
        weight: ``[M, K]``: the residual for full, the finished weight for composed.
        shift: ``[M]``: added to the bias for factors and full, the finished bias for composed.
    """

    left: Array | None = None
    right: Array | None = None
    weight: Array | None = None
    shift: Array | None = None


@dataclass(frozen=True)
class Header:
    """The fields of a package header as they arrived; nothing but magic and format is checked."""

    format: int
    form: int
    dtype: int
    rank: int
    body_bytes: int
    crc: int
    version: bytes
    table_digest: bytes
    tag: bytes
    reserved: bytes

    @property
    def representation(self) -> Representation:
        """Name what the package says it holds.

        Raises:
            UnsupportedPackage: If the form, the dtype or their combination is not of this format.
        """
        if self.form not in tuple(Form):
            raise UnsupportedPackage(what="form", received=self.form, known=[int(form) for form in Form])
        if self.dtype not in tuple(Dtype):
            raise UnsupportedPackage(what="dtype", received=self.dtype, known=[int(dtype) for dtype in Dtype])
        try:
            return Representation(Form(self.form), Dtype(self.dtype), self.rank)
        except ValueError as error:
            ranks = f"1..{MAX_RANK} for factors and composed, 0 otherwise; shared is float32, embedding never int8"
            received = f"rank {self.rank} for {Form(self.form).name.lower()} {Dtype(self.dtype).name.lower()}"
            raise UnsupportedPackage(what="rank", received=received, known=(ranks,)) from error


def peek_header(data: Buffer) -> Header:
    """Read the header without verifying the package.

    Raises:
        CorruptPackage: If there is no whole header or it does not start with the magic.
        UnsupportedPackage: If the format is not this one.
    """
    view = memoryview(data).cast("B")
    if len(view) < HEADER_BYTES:
        raise CorruptPackage(reason=f"it has {len(view)} bytes, fewer than the {HEADER_BYTES} of a header")
    magic, *fields = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise CorruptPackage(reason=f"it starts with {magic!r} instead of {MAGIC!r}")
    header = Header(*fields)
    if header.format != FORMAT:
        raise UnsupportedPackage(what="format", received=header.format, known=(FORMAT,))
    return header


def seal(
    body: Buffer, *, representation: Representation, version: bytes, table: LayerTable, tag: bytes = bytes(TAG_BYTES)
) -> bytes:
    """Put a header with checksum in front of a body that is already in package layout.

    Args:
        body: What ``encode_body`` or a kernel wrote; its numbers are not looked at.
        representation: What the body holds.
        version: First 16 bytes of the SHA-256 of the manifest.
        table: The version's layers.
        tag: What ``tag_of`` says of the request; zero when no request led to the package.

    Raises:
        ValueError: If a length is not what the table, the version or the tag asks for.
    """
    view = memoryview(body).cast("B")
    expected = (table.body_bytes(representation), VERSION_BYTES, TAG_BYTES)
    if (len(view), len(version), len(tag)) != expected:
        raise ValueError(
            f"Expected body, version and tag of {expected} bytes for {representation}, "
            f"got {(len(view), len(version), len(tag))}."
        )
    form, dtype, rank = representation.form, representation.dtype, representation.rank
    fields = (version, table.digest, tag, _RESERVED)
    unsigned = _HEADER.pack(MAGIC, FORMAT, form, dtype, rank, len(view), 0, *fields)
    crc = zlib.crc32(view, zlib.crc32(unsigned))
    return b"".join((_HEADER.pack(MAGIC, FORMAT, form, dtype, rank, len(view), crc, *fields), view))


def tag_of(version: bytes, representation: Representation, canonical: bytes, *, is_embedding: bool = False) -> bytes:
    """Name what a request would get: equal tags mean equal parameters, so nothing needs to be sent.

    Args:
        version: First 16 bytes of the SHA-256 of the manifest.
        representation: What would be sent.
        canonical: ``Signature.canonical`` of the sample, or ``EmbeddingUpload.canonical`` of its embedding.
        is_embedding: Which of the two.

    Returns:
        First 8 bytes of the SHA-256 of version, representation name, a byte and the canonical spelling. The byte, which
        no name holds, is zero for a sample and one for an embedding, so that neither can stand for the other.
    """
    kind = b"\1" if is_embedding else b"\0"
    return hashlib.sha256(version + str(representation).encode() + kind + canonical).digest()[:TAG_BYTES]


@dataclass(frozen=True)
class ParameterPackage:
    """A verified package: the parameters of every dynamic layer for one device at one moment.

    Only ``decode`` makes one from bytes that arrived, so whoever holds a package may use it without further checks.
    It owns its bytes and never changes.
    """

    representation: Representation
    version: bytes
    table_digest: bytes
    tag: bytes
    body: bytes
    table: LayerTable

    @classmethod
    def decode(cls, data: Buffer, table: LayerTable, *, version: bytes | None = None) -> Self:
        """Verify and read a package; the work is linear in ``data``, the memory bounded by the table.

        Args:
            data: The bytes as they arrived.
            table: The layers of the device model that is going to use the parameters; with ``embedding_dim`` if it
                holds decoders.
            version: What the header must name; ``None`` takes any version with this layer table.

        Raises:
            CorruptPackage: If it is not a whole package: wrong length, checksum, padding, or a number is not finite.
            UnsupportedPackage: If its format, form or dtype is not known here, or it needs decoders and there are none.
            WrongVersion: If it was made for another version or other layers.
        """
        view = memoryview(data).cast("B")
        header = peek_header(view)
        if header.body_bytes != len(view) - HEADER_BYTES:
            raise CorruptPackage(
                reason=f"its header says {header.body_bytes} bytes follow and {len(view) - HEADER_BYTES} do"
            )
        # linear, without allocation; before the fields are believed, so that damage is never taken for another version
        unsigned = bytearray(view[:HEADER_BYTES])
        unsigned[_CRC_OFFSET : _CRC_OFFSET + 4] = bytes(4)
        if zlib.crc32(view[HEADER_BYTES:], zlib.crc32(unsigned)) != header.crc:
            raise CorruptPackage(reason="its CRC-32 does not match its bytes")
        representation = header.representation
        if header.reserved != _RESERVED:
            raise UnsupportedPackage(what="reserved field", received=header.reserved.hex(), known=(_RESERVED.hex(),))
        if version is not None and header.version != version:
            raise WrongVersion(expected=f"version {version.hex()}", received=f"version {header.version.hex()}")
        if header.table_digest != table.digest:
            raise WrongVersion(
                expected=f"layer table {table.digest.hex()}", received=f"layer table {header.table_digest.hex()}"
            )
        if representation.form is Form.EMBEDDING and table.embedding_dim is None:
            raise UnsupportedPackage(what="form", received="embedding, without decoders to read it", known=(0, 1, 2, 3))
        body = _verified_body(view[HEADER_BYTES:], representation, table)
        return cls(representation, header.version, header.table_digest, header.tag, body, table)

    def encode(self) -> bytes:
        """Write the package as bytes again."""
        return seal(self.body, representation=self.representation, version=self.version, table=self.table, tag=self.tag)

    def values(self) -> dict[str, LayerValues]:
        """Dequantise every layer to float32; the shared representation and an embedding have none."""
        if self.representation.form is Form.EMBEDDING:
            return {}
        stored = _stored_arrays(self.body, self.table.slots(self.representation))
        return {name: _dequantised(arrays) for name, arrays in stored.items()}

    def compose(self, shared: Mapping[str, tuple[Array, Array]]) -> dict[str, tuple[Array, Array]]:
        """Compute what the device swaps in.

        Args:
            shared: Weight ``[M, K]`` and bias ``[M]`` of every dynamic layer of the shared classifier, float32.

        Returns:
            Weight ``[M, K]`` and bias ``[M]`` of every layer, float32, contiguous: new arrays, except that the shared
            representation gives back the arrays of ``shared``.

        Raises:
            CorruptPackage: If a sum is not finite, which no sound generator leads to.
            ValueError: If ``shared`` is not of this layer table, or the package holds an embedding, which its decoders
                are for.
        """
        if self.representation.form is Form.EMBEDDING:
            raise ValueError(f"Expected parameters to compose, got {self.representation}: run the decoders on it.")
        values = self.values()
        composed = {}
        for layer in self.table:
            shapes = [list(array.shape) for array in shared.get(layer.name, ())]
            if shapes != [[layer.outputs, layer.inputs], [layer.outputs]]:
                raise ValueError(
                    f"Expected shared weight [{layer.outputs}, {layer.inputs}] and bias [{layer.outputs}] of layer "
                    f"{layer.name!r}, got {shapes}."
                )
            weight, bias = shared[layer.name]
            composed[layer.name] = _composed(layer, values.get(layer.name), weight, bias, self.representation.form)
        return composed


def encode_body(values: Mapping[str, LayerValues], representation: Representation, table: LayerTable) -> bytes:
    """Write numbers in package layout: the reference that every other quantiser equals bit for bit.

    A row of an int8 array is stored as ``clip(rint(row / scale), -127, 127)`` with
    ``scale = max(float16(max|row| / 127), 2**-24)``: float32 arithmetic, ties to even, division by the *rounded* scale.

    Args:
        values: Every layer of the table, float32. ``left`` and ``right`` may hold more rows than the representation's
            rank: factors are nested, so the first rows are taken.
        representation: What to write.
        table: The version's layers.

    Returns:
        The body, padding zero.

    Raises:
        ValueError: If an array is missing or of another shape, a number is not finite as stored, or the representation
            is an embedding, which is of no layer.
    """
    if representation.form is Form.EMBEDDING:
        raise ValueError(f"Expected a representation of layers, got {representation}.")
    body = bytearray(table.body_bytes(representation))
    layers = {layer.name: layer for layer in table}
    slots = table.slots(representation)
    scaled = {(slot.layer, slot.role.removesuffix("_scale")): slot for slot in slots if slot.role.endswith("_scale")}
    for slot in slots:
        if slot.role.endswith("_scale"):
            continue
        rows = _rows_of(values, slot, layers[slot.layer])
        with np.errstate(over="ignore", invalid="ignore"):
            if slot.dtype == "int8":
                stored, scales = quantize_rows(rows)
                _write(body, scaled[slot.layer, slot.role], scales)
            else:
                stored = rows.astype(slot.dtype)
        _write(body, slot, stored)
    return bytes(body)


def quantize_rows(rows: Array) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Quantise ``[rows, columns]`` float32 to int8 and one float16 scale a row, as ``encode_body`` says.

    Raises:
        ValueError: If a number is not finite, or a row is too large for a float16 scale.
    """
    with np.errstate(over="ignore"):
        scales = (np.abs(rows).max(axis=1) / np.float32(INT8_LIMIT)).astype(np.float16)
    scales = np.maximum(scales, SMALLEST_SCALE)  # NaN stays NaN
    if not (np.isfinite(scales).all() and np.isfinite(rows).all()):
        raise ValueError("Expected finite rows whose scale fits float16, got a number that is not finite or too large.")
    quotients = np.rint(rows / scales.astype(np.float32)[:, None])
    return np.clip(quotients, -INT8_LIMIT, INT8_LIMIT).astype(np.int8), scales


def _rows_of(values: Mapping[str, LayerValues], slot: Slot, layer: DynamicLayer) -> Array:
    given = values[layer.name] if layer.name in values else LayerValues()
    role = "shift" if slot.role == "bias" else slot.role
    array: Array | None = getattr(given, role)
    is_nested = role in ("left", "right")
    shape = (slot.columns,) if role == "shift" else (slot.rows, slot.columns)
    if array is not None and is_nested and array.ndim == 2:
        array = array[: slot.rows]
    if array is None or array.shape != shape:
        received = "none" if array is None else list(array.shape)
        raise ValueError(f"Expected {role} {list(shape)} for layer {layer.name!r}, got {received}.")
    return np.asarray(array, np.float32).reshape(slot.rows, slot.columns)


def _write(body: bytearray, slot: Slot, stored: npt.NDArray[np.generic]) -> None:
    if slot.dtype != "int8" and not np.isfinite(stored.astype(np.float32)).all():
        raise ValueError(
            f"Expected {slot.role} of layer {slot.layer!r} to be finite as {slot.dtype}, got another number."
        )
    body[slot.offset : slot.end] = np.ascontiguousarray(stored, slot.numpy_dtype).tobytes()


def _verified_body(view: memoryview, representation: Representation, table: LayerTable) -> bytes:
    """Check length, padding and finiteness of a body, then copy it."""
    try:
        expected = table.body_bytes(representation)
    except ValueError as error:
        raise CorruptPackage(reason=str(error)) from error
    if len(view) != expected:
        raise CorruptPackage(
            reason=f"a body of {representation} has {expected} bytes for these layers, not {len(view)}"
        )
    body = bytes(view)
    end = 0
    for slot in table.slots(representation):
        if any(body[end : slot.offset]):
            raise CorruptPackage(reason=f"the padding before {slot.role} of layer {slot.layer!r} is not zero")
        if slot.dtype != "int8" and not np.isfinite(slot.read(body).astype(np.float32)).all():
            raise CorruptPackage(reason=f"{slot.role} of layer {slot.layer!r} holds a number that is not finite")
        end = slot.end
    if any(body[end:]):
        raise CorruptPackage(reason="the padding at its end is not zero")
    return body


def _stored_arrays(body: bytes, slots: tuple[Slot, ...]) -> dict[str, dict[str, Array]]:
    layers: dict[str, dict[str, Array]] = {}
    for slot in slots:
        layers.setdefault(slot.layer, {})[slot.role] = slot.read(body).astype(np.float32)
    return layers


def _dequantised(arrays: dict[str, Array]) -> LayerValues:
    values = {}
    for role in ("left", "right", "weight"):
        if role in arrays:
            scale = arrays.get(f"{role}_scale")
            values[role] = arrays[role] if scale is None else arrays[role] * scale.reshape(-1, 1)
    vector = arrays["shift"] if "shift" in arrays else arrays["bias"]
    return LayerValues(**values, shift=vector.reshape(-1))


def _composed(
    layer: DynamicLayer, values: LayerValues | None, weight: Array, bias: Array, form: Form
) -> tuple[Array, Array]:
    if values is None:
        return weight, bias
    with np.errstate(over="ignore", invalid="ignore"):
        if values.left is not None and values.right is not None:
            weight = weight + values.left.T @ values.right
        elif values.weight is not None:
            weight = values.weight if form is Form.COMPOSED else weight + values.weight
        if values.shift is not None:
            bias = values.shift if form is Form.COMPOSED else bias + values.shift
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise CorruptPackage(reason=f"the composed parameters of layer {layer.name!r} are not finite")
    return weight, bias
