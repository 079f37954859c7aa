"""Samples that are tensors: what is accepted, what the encoder gets from it, and what the error says otherwise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from duet.protocol.errors import InvalidSample
from duet.protocol.signature import Signature, Vocabulary, signature_from_json
from duet.protocol.tensor_signature import TensorSignature

IMAGES = TensorSignature("images", "uint8", (3, 2, 2))
READINGS = TensorSignature("readings", "float32", (4,))
CLASSES = Vocabulary((0, 1))
SAMPLE = [[[1, 2], [3, 4]], [[5, 6], [7, 255]]]


def made(signature, *samples):
    return signature.arrays(samples, CLASSES)[signature.name]


@pytest.mark.parametrize("signature", [IMAGES, READINGS], ids=["images", "readings"])
def test_the_tensor_signature_is_a_signature(signature):
    assert isinstance(signature, Signature)
    assert signature.seen(signature.blank(1)[signature.name][0], CLASSES) == ()
    assert signature_from_json(signature.to_json()) == signature


def test_lists_arrays_and_bytes_are_one_sample():
    array = np.array(SAMPLE, np.uint8)

    same = [SAMPLE, tuple(SAMPLE), array, array.tobytes(), array[:, :, ::-1][:, :, ::-1]]

    assert {IMAGES.canonical(each) for each in same} == {array.tobytes()}
    assert all((made(IMAGES, each) == made(IMAGES, SAMPLE)).all() for each in same)
    assert IMAGES.upload(SAMPLE) == array.tobytes()


def test_a_short_sample_is_repeated_and_its_newest_row_stays_last():
    assert made(READINGS, [7.0, 8.0, 9.0]).tolist() == [[9, 7, 8, 9]]
    assert made(READINGS, [7.0]).tolist() == [[7, 7, 7, 7]]


def test_only_the_last_rows_of_a_long_sample_are_used():
    long = np.arange(9, dtype=np.float32)

    assert made(READINGS, long, long.tobytes(), long.tolist()).tolist() == [[5, 6, 7, 8]] * 3
    assert READINGS.upload(long) == long[-4:].tobytes()


def test_a_batch_has_the_shape_and_the_type_of_the_signature():
    batch = made(IMAGES, SAMPLE, SAMPLE[:1])

    assert (batch.shape, batch.dtype) == ((2, 3, 2, 2), np.uint8)
    assert (IMAGES.blank(5)["images"].shape, IMAGES.blank(5)["images"].dtype) == ((5, 3, 2, 2), np.uint8)


@pytest.mark.parametrize(
    ("sample", "received"),
    [
        ([], "an empty list"),
        (b"", "0 bytes"),
        (b"12345", "5 bytes, where a row has 4"),
        ("text", "a str"),
        (None, "None"),
        ({"a": 1}, "a dict"),
        ([[1, 2], [3, 4]], r"1 at \[0, 0\], where 2 values belong"),
        ([[[1, 2], [3]]], r"a list of 1 at \[0, 1\]"),
        ([[[1, 2], [3, 256]]], r"256 at \[0, 1, 1\]"),
        ([[[1, 2], [3, -1]]], r"-1 at \[0, 1, 1\]"),
        ([[[1, 2], [3, 1.0]]], r"1.0 at \[0, 1, 1\]"),
        ([[[1, 2], [3, True]]], r"True at \[0, 1, 1\]"),
        ([[[1, 2], [3, "4"]]], r"a str at \[0, 1, 1\]"),
        ([[[1, 2], [3, [4]]]], r"a list at \[0, 1, 1\]"),
        (np.zeros((1, 2, 2), np.float32), r"an array of float32 \[1, 2, 2\]"),
        (np.zeros((0, 2, 2), np.uint8), r"an array of uint8 \[0, 2, 2\]"),
        (np.zeros((2, 2), np.uint8), r"an array of uint8 \[2, 2\]"),
        (np.uint8(1), "a uint8"),
    ],
    ids=str,
)
def test_what_is_no_such_tensor_is_refused_with_its_place(sample, received):
    for use in (IMAGES.validate, IMAGES.canonical, IMAGES.upload, lambda sample: made(IMAGES, sample)):
        with pytest.raises(InvalidSample, match=received) as caught:
            use(sample)
    assert "uint8 [1 to 3, 2, 2]" in str(caught.value)


@pytest.mark.parametrize(
    "sample",
    [
        [1.0, float("nan")],
        [float("inf")],
        [1e39],
        [10**400],
        np.array([np.nan], np.float32),
        np.array([np.inf], "<f4").tobytes(),
    ],
    ids=["nan", "infinite", "beyond float32", "beyond float64", "array", "bytes"],
)
def test_numbers_that_are_not_finite_are_refused(sample):
    with pytest.raises(InvalidSample, match="not finite"):
        READINGS.validate(sample)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Images"},
        {"name": "dyn.classifier.weight"},
        {"name": 3},
        {"dtype": "int4"},
        {"dtype": "object"},
        {"shape": []},
        {"shape": [0, 2]},
        {"shape": [True, 2]},
        {"shape": [2.0]},
        {"shape": [1] * 9},
        {"shape": [2**24, 2]},
        {"shape": "3"},
        {"more": 1},
    ],
    ids=str,
)
def test_a_signature_that_nobody_could_serve_is_refused(change):
    with pytest.raises(ValueError, match="Expected"):
        signature_from_json({**IMAGES.to_json(), **change})


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_tensor_survives_json_and_bytes(data):
    dtype = data.draw(st.sampled_from(["uint8", "float16", "float32"]))
    signature = TensorSignature("x", dtype, (3, 2))
    finite = None if dtype == "uint8" else st.floats(-100, 100, width=16 if dtype == "float16" else 32)
    rows = data.draw(arrays.arrays(dtype, st.tuples(st.integers(1, 5), st.just(2)), elements=finite))

    for form in (rows.tolist(), rows.tobytes()):
        assert signature.canonical(form) == rows[-3:].tobytes()
