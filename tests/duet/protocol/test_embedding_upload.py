"""An embedding from a device is read strictly and has one spelling, however it was sent."""

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from duet.protocol.embedding_errors import InvalidEmbedding
from duet.protocol.embedding_upload import EmbeddingUpload, spelt
from duet.protocol.package import tag_of
from duet.protocol.representation import Representation

UPLOAD = EmbeddingUpload(3, "ab" * 32)
VALUES = [0.5, -1.0, 2.0**-24]
CANONICAL = np.array(VALUES, "<f2").tobytes()


def of(*values):
    return base64.b64encode(np.array(values, "<f2").tobytes()).decode()


@given(arrays("<f2", 3, elements=st.floats(width=16, allow_nan=False, allow_infinity=False)))
def test_every_finite_float16_is_the_same_as_text_and_as_numbers(embedding):
    canonical = embedding.tobytes()

    assert UPLOAD.read(spelt(canonical)) == canonical
    assert UPLOAD.read(embedding.astype(float).tolist()) == canonical
    assert UPLOAD.canonical(embedding.astype(np.float32)) == canonical


def test_numbers_are_rounded_to_the_nearest_float16():
    assert UPLOAD.read([1 + 2**-12, 65519, 0]) == np.array([1, 65504, 0], "<f2").tobytes()
    assert UPLOAD.canonical(np.float32([0.1, 0.2, 0.3])) == np.float16([0.1, 0.2, 0.3]).tobytes()


@pytest.mark.parametrize(
    ("values", "received"),
    [
        ([], "0 numbers"),
        ([0.5] * 2, "2 numbers"),
        ([0.5] * 4, "4 numbers"),
        ([0.5, 0.5, 65520], "65520 at position 2"),
        ([0.5, -1e300, 0], "-1e+300 at position 1"),
        ("", "0 bytes"),
        (of(1, 2), "4 bytes"),
        (of(1, 2, 3, 4), "8 bytes"),
        (base64.b64encode(CANONICAL[:-1]).decode(), "5 bytes"),
        (base64.b64encode(CANONICAL[:-1]).decode().rstrip("="), "no base64"),
        (of(1, 2, 3)[:-1] + "!", "no base64"),
        (of(1, 2, 3) + "\n", "no base64"),
        ("\ud800" * 8, "no base64"),
        ("ü" * 8, "no base64"),
        (of(1, np.nan, 2), "not finite"),
        (of(1, 2, -np.inf), "not finite"),
    ],
    ids=repr,
)
def test_what_is_no_embedding_of_this_version_is_refused(values, received):
    with pytest.raises(InvalidEmbedding) as refusal:
        UPLOAD.read(values)

    assert received in refusal.value.received
    assert "3 float16 numbers, as base64 of 6 little-endian bytes" in str(refusal.value)


@pytest.mark.parametrize(
    "embedding", [np.zeros(2), np.zeros((1, 3)), np.float32([0, np.nan, 0]), np.float32([0, 0, 1e5])]
)
def test_what_an_encoder_must_not_make_is_refused(embedding):
    with pytest.raises(InvalidEmbedding):
        UPLOAD.canonical(embedding)


def test_no_sample_has_the_tag_of_an_embedding():
    version, representation = bytes(16), Representation.parse("factors-r2-int8")

    as_sample, as_embedding = (tag_of(version, representation, CANONICAL, is_embedding=each) for each in (False, True))

    assert as_sample != as_embedding


def test_the_declaration_is_read_back():
    assert EmbeddingUpload.from_json(UPLOAD.to_json()) == UPLOAD
    assert UPLOAD.to_json() == {"dtype": "float16", "shape": [3], "encoder": "ab" * 32}
