"""A package that carries an embedding: what is written is read, and nothing else is."""

from dataclasses import replace

import numpy as np
import pytest

from duet.protocol.decoders import embedding_of, encode_embedding, name_of
from duet.protocol.errors import CorruptPackage, UnsupportedPackage, WrongVersion
from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.package import ParameterPackage, encode_body, seal
from duet.protocol.representation import Dtype, Form, Representation

VERSION = bytes(range(16))
BARE = LayerTable((DynamicLayer("d", outputs=2, inputs=3),))
TABLE = replace(BARE, embedding_dim=5)
EXACT, HALF = (Representation(Form.EMBEDDING, dtype) for dtype in (Dtype.FLOAT32, Dtype.FLOAT16))
Z = np.array([0.1, -1, 2.0**-20, 60000, 0], np.float32)


def sealed(body: bytes, representation: Representation = EXACT, table: LayerTable = TABLE) -> bytes:
    return seal(body, representation=representation, version=VERSION, table=table)


@pytest.mark.parametrize(("representation", "size"), [(EXACT, 64 + 32), (HALF, 64 + 16)], ids=str)
def test_what_is_written_is_read(representation: Representation, size: int) -> None:
    data = sealed(encode_embedding(Z, representation, TABLE), representation)

    package = ParameterPackage.decode(data, TABLE, version=VERSION)

    assert len(data) == size == TABLE.package_bytes(representation)
    assert embedding_of(package).tolist() == Z.astype(representation.dtype.name.lower()).astype(np.float32).tolist()
    assert embedding_of(package).dtype == np.float32
    assert package.encode() == data


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_neither_written_nor_read(number: float) -> None:
    z = Z.copy()
    z[2] = number

    assert encode_embedding(z, EXACT, TABLE) is None
    with pytest.raises(CorruptPackage, match="not finite"):
        ParameterPackage.decode(sealed(z.tobytes().ljust(32, b"\0")), TABLE)


def test_what_float16_cannot_hold_is_not_written_as_float16() -> None:
    z = Z.copy()
    z[0] = 1e5

    assert encode_embedding(z, HALF, TABLE) is None
    assert encode_embedding(z, EXACT, TABLE) is not None


def test_an_embedding_of_another_size_or_version_is_refused() -> None:
    data = sealed(encode_embedding(Z, EXACT, TABLE))

    with pytest.raises(CorruptPackage, match="48 bytes"):
        ParameterPackage.decode(data, replace(BARE, embedding_dim=9))
    with pytest.raises(WrongVersion):
        ParameterPackage.decode(data, TABLE, version=bytes(16))


def test_who_has_no_decoders_refuses_it() -> None:
    with pytest.raises(UnsupportedPackage, match="decoders"):
        ParameterPackage.decode(sealed(encode_embedding(Z, EXACT, TABLE)), BARE)


def test_padding_is_zero() -> None:
    with pytest.raises(CorruptPackage, match="padding"):
        ParameterPackage.decode(sealed(Z.tobytes().ljust(32, b"\1")), TABLE)


def test_it_is_of_no_layer() -> None:
    package = ParameterPackage.decode(sealed(encode_embedding(Z, EXACT, TABLE)), TABLE)
    shared = {"d": (np.zeros((2, 3), np.float32), np.zeros(2, np.float32))}
    factors = ParameterPackage.decode(
        seal(b"", representation=Representation(Form.SHARED, Dtype.FLOAT32), version=VERSION, table=TABLE), TABLE
    )

    assert package.values() == {}
    with pytest.raises(ValueError, match="run the decoders"):
        package.compose(shared)
    with pytest.raises(ValueError, match="form embedding, got shared"):
        embedding_of(factors)
    with pytest.raises(ValueError, match="of layers"):
        encode_body({}, EXACT, TABLE)
    with pytest.raises(ValueError, match="knows its embedding"):
        BARE.package_bytes(EXACT)


def test_the_size_of_the_embedding_is_part_of_no_comparison_and_no_digest() -> None:
    assert BARE == TABLE
    assert BARE.digest == TABLE.digest
    assert LayerTable.from_json(TABLE.to_json()) == TABLE


def test_a_name_is_the_first_half_of_the_hash() -> None:
    assert name_of("0123456789abcdef" * 4) == "0123456789abcdef" * 2
