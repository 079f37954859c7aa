"""Hostile packages: 100,000 inputs neither crash the decoder nor make it wait or allocate."""

import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from duet.protocol.errors import CorruptPackage, PackageError
from duet.protocol.golden import FOLDER
from duet.protocol.golden.vectors import TABLES
from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.package import ParameterPackage, seal
from duet.protocol.representation import SHARED

TABLE = TABLES["ragged"]
PACKAGES = [path.read_bytes() for path in sorted(FOLDER.glob("ragged-*.bin"))]
RANDOM, MUTATED, SEALED = 40_000, 30_000, 30_000
SLOWEST_S = 1.0


def resealed(data: bytes) -> bytes:
    """Correct length and checksum, so that the damage gets past them."""
    header = bytearray(data[:64])
    header[8:16] = struct.pack("<II", len(data) - 64, 0)
    header[12:16] = struct.pack("<I", zlib.crc32(data[64:], zlib.crc32(header)))
    return bytes(header) + data[64:]


def random_bytes(random: np.random.Generator) -> Iterator[bytes]:
    """Noise of every length around a header, a third of it behind a true beginning."""
    lengths = random.integers(0, 200, RANDOM)
    noise = random.bytes(int(lengths.sum()))
    starts = np.cumsum(lengths) - lengths
    beginnings = (b"", b"DUET", PACKAGES[0][:5])
    for place, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        yield beginnings[place % 3] + noise[start : start + length]


def mutated(random: np.random.Generator, count: int) -> Iterator[bytes]:
    """Valid packages with one to four bytes replaced, half of them in the header, a quarter cut or extended."""
    for package in PACKAGES:
        rows = np.tile(np.frombuffer(package, np.uint8), (-(-count // len(PACKAGES)), 1))
        for _ in range(4):
            columns = random.integers(0, np.where(random.random(len(rows)) < 0.5, 64, len(package)))
            rows[np.arange(len(rows)), columns] = random.integers(0, 256, len(rows))
        lengths = np.where(
            random.random(len(rows)) < 0.75, len(package), random.integers(0, len(package) + 9, len(rows))
        )
        for row, length in zip(rows, lengths.tolist(), strict=True):
            yield row.tobytes()[:length].ljust(length, b"\1")


def hostile() -> Iterator[bytes]:
    random = np.random.default_rng(0)
    yield from random_bytes(random)
    yield from mutated(random, MUTATED)
    for data in mutated(random, SEALED):
        yield resealed(data) if len(data) >= 64 else data


def test_a_hundred_thousand_hostile_inputs_are_refused_or_sound():
    count, accepted, slowest_s = 0, 0, 0.0

    for data in hostile():
        started_s = time.thread_time()
        try:
            package = ParameterPackage.decode(data, TABLE)
        except PackageError:
            package = None
        slowest_s = max(slowest_s, time.thread_time() - started_s)
        count += 1
        if package is not None:
            accepted += 1
            numbers = [
                array for layer in package.values().values() for array in vars(layer).values() if array is not None
            ]
            assert all(np.isfinite(array).all() for array in numbers)

    assert count >= 100_000
    assert slowest_s < SLOWEST_S
    # damage behind a right checksum reaches the last check, and other numbers in the arrays are just another package
    assert accepted > 1_000


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 1 << 20], ids=hex)
def test_a_length_that_lies_allocates_nothing(length):
    header = bytearray(PACKAGES[0][:64])
    header[8:12] = struct.pack("<I", length)
    tracemalloc.start()

    with pytest.raises(CorruptPackage, match="its header says"):
        ParameterPackage.decode(bytes(header), TABLE)

    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64 * 1024


def test_a_huge_layer_table_allocates_nothing_for_a_small_package():
    table = LayerTable((DynamicLayer("huge", outputs=2**14, inputs=2**14),))
    small = bytearray(seal(b"", representation=SHARED, version=bytes(16), table=table))
    small[5:8] = bytes((2, 1, 0))
    tracemalloc.start()

    with pytest.raises(CorruptPackage, match="has 1073807360 bytes for these layers, not 0"):
        ParameterPackage.decode(resealed(bytes(small)), table)

    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64 * 1024


def test_a_large_input_is_refused_without_a_copy():
    data = resealed(PACKAGES[0][:64] + bytes(8 * 2**20))
    tracemalloc.start()

    with pytest.raises(CorruptPackage, match="not 8388608"):
        ParameterPackage.decode(data, TABLE)

    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64 * 1024
