"""What the golden vectors hold: numbers from a formula, packed by the library, described for other languages.

The numbers come from a multiplicative hash, not from a random generator, so another language can make them too:

    value(i) = ((2654435761 i mod 2^32) >> 17) / 2^14 - 1        multiples of 2^-14 in [-1, 1)

Shapes: M output features, K input features, R rank.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from duet.protocol.canonical_json import encode_json
from duet.protocol.decoders import embedding_of, encode_embedding
from duet.protocol.errors import PackageError
from duet.protocol.golden import INDEX_NAME
from duet.protocol.layers import HEADER_BYTES, DynamicLayer, LayerTable
from duet.protocol.package import LayerValues, ParameterPackage, encode_body, peek_header, seal, tag_of
from duet.protocol.representation import Form, Representation
from duet.protocol.signing import SigningKey

RANK = 4
VERSION = bytes(range(16))
SAMPLE = b'[17,"a film",42]'
EMBEDDING = np.array([0.5, -1, 2.0**-24, 65504], "<f2").tobytes()
SIGNING_KEY = SigningKey("golden-1", bytes(range(32)))
COMPOSED_TOLERANCE = 2e-6
"""A device's sum ``s`` is right when ``|s - expected| <= tolerance (1 + |expected|)``."""
TABLES: Mapping[str, LayerTable] = {
    "example": LayerTable((DynamicLayer("d", outputs=2, inputs=3),)),
    "ragged": LayerTable(
        (
            DynamicLayer("hidden", outputs=5, inputs=3),
            DynamicLayer("head.gate", outputs=1, inputs=1),
            DynamicLayer("output", outputs=4, inputs=17),
        )
    ),
}
PACKAGES = (
    ("example", "factors-r1-int8"),
    *(
        ("ragged", name)
        for name in (
            "shared",
            "factors-r1-int8",
            "factors-r4-float32",
            "factors-r4-float16",
            "factors-r4-int8",
            "full-float32",
            "full-float16",
            "full-int8",
            "composed-r4-float32",
            "composed-r4-float16",
            "composed-r4-int8",
        )
    ),
)

EMBEDDINGS = ("embedding-float32", "embedding-float16")
"""Packages that carry ``EMBEDDING``."""

_EXAMPLE = "factors-r1-int8"
_FLOAT16_BITS = (0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3555, 0x3C00, 0xC000, 0x7BFF, 0xFBFF)


@dataclass(frozen=True)
class Given:
    """What goes into the packages of one table: the shared classifier, and generated values of every form."""

    shared: Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
    generated: Mapping[str, LayerValues]

    def values(self, form: Form) -> Mapping[str, LayerValues]:
        """Choose what ``encode_body`` gets for a form: composed packs the sum of shared and residual."""
        if form is not Form.COMPOSED:
            return self.generated
        composed = {}
        for name, (weight, bias) in self.shared.items():
            residual, shift = self.generated[name].weight, self.generated[name].shift
            if residual is not None and shift is not None:
                composed[name] = LayerValues(weight=weight + residual, shift=bias + shift)
        return composed


def golden_files() -> dict[str, bytes]:
    """Make every golden file, by name."""
    files: dict[str, bytes] = {}
    packages: list[object] = []
    for table_name, representation_name in PACKAGES:
        table, given = TABLES[table_name], _given(TABLES[table_name])
        name = f"{table_name}-{representation_name}.bin"
        files[name] = _package(Representation.parse(representation_name), table, given)
        packages.append({"file": name, "table": table_name, **_described(files[name], table, given)})
    embeddings: list[object] = []
    for representation_name in EMBEDDINGS:
        name = f"ragged-{representation_name}.bin"
        files[name], described = _embedding(Representation.parse(representation_name))
        embeddings.append({"file": name, "table": "ragged", **described})
    index: dict[str, list[object]] = {
        "format": [1],
        "version": [VERSION.hex()],
        "tables": [_table(name, table) for name, table in TABLES.items()],
        "float16": [{"bits": f"{bits:04x}", "value": _float16(bits)} for bits in _FLOAT16_BITS],
        "tags": [_tag(name) for _, name in PACKAGES[1:]],
        "embedding_tags": [_embedding_tag(name) for _, name in PACKAGES[1:]],
        "signatures": [_signed(name, files) for name in (f"ragged-{_EXAMPLE}.bin", f"example-{_EXAMPLE}.bin")],
        "composed_tolerance": [COMPOSED_TOLERANCE],
        "packages": packages,
        "embeddings": embeddings,
        "rejected": _rejected(files["example-factors-r1-int8.bin"]),
    }
    files[INDEX_NAME] = _pretty(index)
    return files


def _given(table: LayerTable) -> Given:
    numbers = _Numbers()
    shared, generated = {}, {}
    for layer in table:
        M, K = layer.outputs, layer.inputs  # noqa: N806
        shared[layer.name] = (numbers.take(M, K), numbers.take(M))
        left, right, weight, shift = numbers.take(RANK, M), numbers.take(RANK, K), numbers.take(M, K), numbers.take(M)
        if M > 1:
            # rows that int8 must guard: all zero, below the smallest scale, a subnormal scale, ties in the rounding
            left[1], right[1] = 0, right[1] * np.float32(2.0**-22)
            left[2] *= np.float32(2.0**-10)
            right[3] = np.float32(0.5)
            right[3, 0] = 127
            weight[0], weight[1] = 0, weight[1] * np.float32(2.0**-22)
        generated[layer.name] = LayerValues(left, right, weight, shift)
    return Given(shared, generated)


class _Numbers:
    """The formula of the module docstring, taken from the front."""

    def __init__(self) -> None:
        self._taken = 0

    def take(self, *shape: int) -> npt.NDArray[np.float32]:
        count = int(np.prod(shape))
        places = np.arange(self._taken + 1, self._taken + 1 + count, dtype=np.uint64)
        self._taken += count
        hashed = (places * np.uint64(2654435761)) % np.uint64(2**32) >> np.uint64(17)
        return (hashed.astype(np.float64) / 2**14 - 1).astype(np.float32).reshape(shape)


def _package(representation: Representation, table: LayerTable, given: Given) -> bytes:
    body = encode_body(given.values(representation.form), representation, table)
    tag = tag_of(VERSION, representation, SAMPLE)
    return seal(body, representation=representation, version=VERSION, table=table, tag=tag)


def _embedding(representation: Representation) -> tuple[bytes, dict[str, object]]:
    numbers = np.frombuffer(EMBEDDING, "<f2").astype(np.float32)
    table = replace(TABLES["ragged"], embedding_dim=len(numbers))
    body = encode_embedding(numbers, representation, table)
    assert body is not None
    tag = tag_of(VERSION, representation, SAMPLE)
    data = seal(body, representation=representation, version=VERSION, table=table, tag=tag)
    package = ParameterPackage.decode(data, table, version=VERSION)
    return data, {
        "representation": str(representation),
        "header": _header(data),
        "embedding_dim": len(numbers),
        "embedding": embedding_of(package).tolist(),
    }


def _described(data: bytes, table: LayerTable, given: Given) -> dict[str, object]:
    package = ParameterPackage.decode(data, table, version=VERSION)
    return {
        "representation": str(package.representation),
        "header": _header(data),
        "slots": [vars(slot) for slot in table.slots(package.representation)],
        "inputs": _arrays(given.values(package.representation.form)) if package.body else {},
        "values": _arrays(package.values()),
        "composed": {name: _composed(name, package, given) for name in given.shared},
    }


def _header(data: bytes) -> dict[str, object]:
    header = peek_header(data)
    return {
        "format": header.format,
        "form": header.form,
        "dtype": header.dtype,
        "rank": header.rank,
        "body_bytes": header.body_bytes,
        "crc": header.crc,
        "version": header.version.hex(),
        "table_digest": header.table_digest.hex(),
        "tag": header.tag.hex(),
    }


def _arrays(values: Mapping[str, LayerValues]) -> dict[str, object]:
    return {
        name: {role: array.tolist() for role, array in vars(layer).items() if array is not None}
        for name, layer in values.items()
    }


def _composed(name: str, package: ParameterPackage, given: Given) -> dict[str, object]:
    """Compose in float64, product by product, so that no BLAS decides the last digit."""
    weight, bias = (array.astype(np.float64) for array in given.shared[name])
    values = package.values().get(name, LayerValues())
    if package.representation.form is Form.COMPOSED:
        weight, bias = np.zeros_like(weight), np.zeros_like(bias)
    if values.left is not None and values.right is not None:
        for left, right in zip(values.left.astype(np.float64), values.right.astype(np.float64), strict=True):
            weight = weight + left[:, None] * right[None, :]
    if values.weight is not None:
        weight = weight + values.weight
    if values.shift is not None:
        bias = bias + values.shift
    return {"weight": weight.astype(np.float32).tolist(), "bias": bias.astype(np.float32).tolist()}


def _table(name: str, table: LayerTable) -> dict[str, object]:
    return {
        "name": name,
        "layers": table.to_json(),
        "canonical_json": encode_json(table.to_json()).decode(),
        "digest": table.digest.hex(),
        "shared": {
            layer: {"weight": weight.tolist(), "bias": bias.tolist()}
            for layer, (weight, bias) in _given(table).shared.items()
        },
    }


def _tag(name: str) -> dict[str, object]:
    tag = tag_of(VERSION, Representation.parse(name), SAMPLE)
    return {"representation": name, "canonical_sample": SAMPLE.decode(), "tag": tag.hex()}


def _embedding_tag(name: str) -> dict[str, object]:
    tag = tag_of(VERSION, Representation.parse(name), EMBEDDING, is_embedding=True)
    return {"representation": name, "embedding": EMBEDDING.hex(), "tag": tag.hex()}


def _float16(bits: int) -> float:
    (value,) = struct.unpack("<e", struct.pack("<H", bits))
    return float(value)


def _rejected(data: bytes) -> list[object]:
    """Damage one package in every way; what is marked sealed has a right checksum, so only the field gives it away."""
    slots = {slot.role: HEADER_BYTES + slot.offset for slot in TABLES["example"].slots(Representation.parse(_EXAMPLE))}
    damaged = {
        "nothing at all": b"",
        "a header alone, with its body missing": data[:HEADER_BYTES],
        "the last byte missing": data[:-1],
        "one byte too many": data + b"\0",
        "another magic": b"duet" + data[4:],
        "format 2": _edited(data, 4, b"\2"),
        "one flipped bit in the body": _edited(data, slots["left"], bytes([data[slots["left"]] ^ 1])),
        "one flipped bit in the tag": _edited(data, 48, bytes([data[48] ^ 1])),
        "sealed: form embedding with int8 and a rank": _sealed(_edited(data, 5, b"\4")),
        "sealed: form 9, unknown": _sealed(_edited(data, 5, b"\x09")),
        "sealed: dtype 0, unknown": _sealed(_edited(data, 6, b"\0")),
        "sealed: dtype 4, reserved": _sealed(_edited(data, 6, b"\4")),
        "sealed: rank 0 for factors": _sealed(_edited(data, 7, b"\0")),
        "sealed: rank 40 with the body of rank 1": _sealed(_edited(data, 7, b"\x28")),
        "sealed: form shared with a body": _sealed(_edited(data, 5, b"\0\1\0")),
        "sealed: a body 16 bytes too long": _sealed(_edited(data, 8, struct.pack("<I", len(data) - 48)) + bytes(16)),
        "sealed: another version": _sealed(_edited(data, 16, b"\xff")),
        "sealed: another layer table": _sealed(_edited(data, 32, bytes([data[32] ^ 1]))),
        "sealed: reserved bytes that are not zero": _sealed(_edited(data, 63, b"\1")),
        "sealed: padding that is not zero": _sealed(_edited(data, slots["left"] + 2, b"\1")),
        "sealed: padding at the end that is not zero": _sealed(_edited(data, len(data) - 1, b"\1")),
        "sealed: an infinite scale": _sealed(_edited(data, slots["right_scale"], b"\x00\x7c")),
        "sealed: a shift that is not a number": _sealed(_edited(data, slots["shift"] + 2, b"\x01\x7e")),
    }
    return [{"why": why, "code": _code(why, bytes_), "hex": bytes_.hex()} for why, bytes_ in damaged.items()]


def _edited(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


def _sealed(data: bytes) -> bytes:
    return _edited(data, 12, struct.pack("<I", zlib.crc32(_edited(data, 12, bytes(4)))))


def _code(why: str, data: bytes) -> str:
    try:
        ParameterPackage.decode(data, TABLES["example"], version=VERSION)
    except PackageError as error:
        return error.code
    raise AssertionError(f"Expected the decoder to refuse: {why}.")


def _signed(file: str, files: Mapping[str, bytes]) -> dict[str, object]:
    return {
        "file": file,
        "key": {"id": SIGNING_KEY.id, "secret": SIGNING_KEY.secret.hex()},
        "header": SIGNING_KEY.sign(files[file]),
    }


def _pretty(index: dict[str, list[object]]) -> bytes:
    """Write one line an entry: readable in a diff, and still small."""
    members = []
    for name, entries in index.items():
        lines = ",\n".join(f"  {json.dumps(entry, sort_keys=False, allow_nan=False)}" for entry in entries)
        members.append(f" {json.dumps(name)}: [\n{lines}\n ]")
    return ("{\n" + ",\n".join(members) + "\n}\n").encode()
