"""Golden vectors: they come out the same every time, and a decoder written from docs/protocol.md alone reads them.

The decoder below uses nothing of the library, only ``struct`` and ``zlib``: it is what another language has.
"""

import hashlib
import hmac
import json
import math
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from duet.protocol.errors import PackageError
from duet.protocol.golden import FOLDER, INDEX_NAME
from duet.protocol.golden.vectors import golden_files
from duet.protocol.layers import LayerTable
from duet.protocol.package import ParameterPackage
from duet.protocol.signing import SigningKey, check_signature

INDEX = json.loads((FOLDER / INDEX_NAME).read_text())
TABLES = {table["name"]: table for table in INDEX["tables"]}
PACKAGES = {entry["file"].removesuffix(".bin"): entry for entry in INDEX["packages"]}
(TOLERANCE,) = INDEX["composed_tolerance"]
FORMATS = {"float32": "f", "float16": "e", "int8": "b"}


def slots_of(layers: list[dict], form: int, dtype: int, rank: int) -> tuple[list[dict], int]:
    stored = {1: "float32", 2: "float16", 3: "int8"}[dtype]
    slots, offset = [], 0
    for layer in layers:
        m, k = layer["outputs"], layer["inputs"]
        matrices = {0: [], 1: [("left", rank, m), ("right", rank, k)], 2: [("weight", m, k)], 3: [("weight", m, k)]}[
            form
        ]
        wanted = []
        for role, rows, columns in matrices:
            if stored == "int8":
                wanted.append((f"{role}_scale", 1, rows, "float16"))
            wanted.append((role, rows, columns, stored))
        if form != 0:
            wanted.append(("bias" if form == 3 else "shift", 1, m, "float32" if dtype == 1 else "float16"))
        for role, rows, columns, kind in wanted:
            slots.append(
                {
                    "layer": layer["name"],
                    "role": role,
                    "offset": offset,
                    "rows": rows,
                    "columns": columns,
                    "dtype": kind,
                }
            )
            offset += rows * columns * struct.calcsize(FORMATS[kind])
            offset = (offset + 15) // 16 * 16
    return slots, offset


def decode(data: bytes, layers: list[dict]) -> tuple[dict, list[dict], dict]:
    names = ("format", "form", "dtype", "rank", "body_bytes", "crc")
    magic, *numbers, version, digest, tag, reserved = struct.unpack("<4sBBBBII16s16s8s8s", data[:64])
    header = dict(zip(names, numbers, strict=True))
    header |= {"version": version.hex(), "table_digest": digest.hex(), "tag": tag.hex()}
    assert (magic, header["format"], reserved) == (b"DUET", 1, bytes(8))
    assert zlib.crc32(data[:12] + bytes(4) + data[16:]) == header["crc"]
    slots, body_bytes = slots_of(layers, header["form"], header["dtype"], header["rank"])
    assert header["body_bytes"] == body_bytes == len(data) - 64
    arrays: dict[str, dict[str, list]] = {}
    for slot in slots:
        count = slot["rows"] * slot["columns"]
        numbers = struct.unpack_from(f"<{count}{FORMATS[slot['dtype']]}", data, 64 + slot["offset"])
        rows = [list(numbers[start : start + slot["columns"]]) for start in range(0, count, slot["columns"])]
        arrays.setdefault(slot["layer"], {})[slot["role"]] = rows
    return header, slots, arrays


def dequantised(arrays: dict[str, list]) -> dict[str, list]:
    values = {}
    for role in ("left", "right", "weight"):
        if role in arrays:
            (scales,) = arrays.get(f"{role}_scale", [[1.0] * len(arrays[role])])
            values[role] = [[number * scale for number in row] for row, scale in zip(arrays[role], scales, strict=True)]
    (values["shift"],) = arrays.get("shift") or arrays["bias"]
    return values


def composed(form: int, values: dict[str, list] | None, shared: dict[str, list]) -> dict[str, list]:
    if values is None:
        return shared
    if form == 3:
        return {"weight": values["weight"], "bias": values["shift"]}
    weight = [list(row) for row in shared["weight"]]
    for i, row in enumerate(weight):
        for j in range(len(row)):
            if form == 1:
                row[j] += sum(left[i] * right[j] for left, right in zip(values["left"], values["right"], strict=True))
            else:
                row[j] += values["weight"][i][j]
    return {"weight": weight, "bias": [b + s for b, s in zip(shared["bias"], values["shift"], strict=True)]}


@pytest.mark.parametrize("entry", PACKAGES.values(), ids=list(PACKAGES))
def test_a_decoder_written_from_the_document_reads_them(entry):
    table = TABLES[entry["table"]]

    header, slots, arrays = decode((FOLDER / entry["file"]).read_bytes(), table["layers"])
    values = {name: dequantised(stored) for name, stored in arrays.items()}

    assert header == entry["header"]
    assert slots == entry["slots"]
    assert values == entry["values"]
    for name, shared in table["shared"].items():
        result = composed(header["form"], values.get(name), shared)
        for part in ("weight", "bias"):
            np.testing.assert_allclose(result[part], entry["composed"][name][part], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("entry", PACKAGES.values(), ids=list(PACKAGES))
def test_the_library_reads_them(entry):
    description = TABLES[entry["table"]]
    table = LayerTable.from_json(description["layers"])
    shared = {
        name: (np.array(parts["weight"], np.float32), np.array(parts["bias"], np.float32))
        for name, parts in description["shared"].items()
    }

    package = ParameterPackage.decode(
        (FOLDER / entry["file"]).read_bytes(), table, version=bytes.fromhex(INDEX["version"][0])
    )

    assert str(package.representation) == entry["representation"]
    assert table.digest.hex() == description["digest"]
    held = {
        name: {role: array.tolist() for role, array in vars(layer).items() if array is not None}
        for name, layer in package.values().items()
    }
    assert held == entry["values"]
    for name, parts in package.compose(shared).items():
        for part, array in zip(("weight", "bias"), parts, strict=True):
            np.testing.assert_allclose(array, entry["composed"][name][part], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("entry", INDEX["rejected"], ids=lambda entry: entry["why"].replace(" ", "-"))
def test_what_is_to_be_refused_is_refused_for_its_reason(entry):
    table = LayerTable.from_json(TABLES["example"]["layers"])

    with pytest.raises(PackageError) as caught:
        ParameterPackage.decode(bytes.fromhex(entry["hex"]), table, version=bytes.fromhex(INDEX["version"][0]))

    assert caught.value.code == entry["code"]


def test_every_kind_of_representation_has_a_vector():
    assert {(entry["header"]["form"], entry["header"]["dtype"]) for entry in PACKAGES.values()} == {
        (0, 1),
        *((form, dtype) for form in (1, 2, 3) for dtype in (1, 2, 3)),
    }


def test_digests_and_tags_follow_from_what_stands_beside_them():
    for table in TABLES.values():
        assert json.loads(table["canonical_json"]) == table["layers"]
        assert hashlib.sha256(table["canonical_json"].encode()).hexdigest()[:32] == table["digest"]
    for tag in INDEX["tags"]:
        hashed = bytes.fromhex(INDEX["version"][0]) + f"{tag['representation']}\0{tag['canonical_sample']}".encode()
        assert hashlib.sha256(hashed).hexdigest()[:16] == tag["tag"]
    for tag in INDEX["embedding_tags"]:
        hashed = bytes.fromhex(INDEX["version"][0]) + tag["representation"].encode() + b"\1"
        assert hashlib.sha256(hashed + bytes.fromhex(tag["embedding"])).hexdigest()[:16] == tag["tag"]


@pytest.mark.parametrize("entry", INDEX["signatures"], ids=lambda entry: entry["file"])
def test_signatures_are_made_as_the_document_says(entry):
    body = (FOLDER / entry["file"]).read_bytes()

    digits = hmac.new(bytes.fromhex(entry["key"]["secret"]), body, "sha256").hexdigest()

    assert entry["header"] == f"hmac-sha256={digits}; key={entry['key']['id']}"
    check_signature(body, entry["header"], [SigningKey(entry["key"]["id"], bytes.fromhex(entry["key"]["secret"]))])


def test_float16_includes_zero_subnormals_and_the_largest():
    values = {entry["bits"]: entry["value"] for entry in INDEX["float16"]}

    assert (values["0001"], values["7bff"]) == (2.0**-24, 65504.0)
    assert math.copysign(1, values["8000"]) == -1


def test_making_them_again_gives_the_same_bytes(tmp_path):
    command = [sys.executable, "-m", "duet.protocol.golden", str(tmp_path)]

    subprocess.run(command, check=True, capture_output=True, timeout=60)

    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in (".bin", ".json")}
    assert made == committed == golden_files()


@pytest.mark.parametrize("entry", INDEX["embeddings"], ids=lambda entry: entry["representation"])
def test_an_embedding_is_read_from_the_document_alone(entry: dict) -> None:
    data, count = (FOLDER / entry["file"]).read_bytes(), entry["embedding_dim"]
    kind = {"embedding-float32": "f", "embedding-float16": "e"}[entry["representation"]]

    assert data[5:8] == bytes([4, {"f": 1, "e": 2}[kind], 0])
    assert list(struct.unpack_from(f"<{count}{kind}", data, 64)) == entry["embedding"]
    used = 64 + count * struct.calcsize(kind)
    assert len(data) == -(-used // 16) * 16
    assert not any(data[used:])
