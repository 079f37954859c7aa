"""Parameter packages: what goes in comes out, and what did not come out of an encoder does not get in."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from duet.protocol.errors import CorruptPackage, PackageError, UnsupportedPackage, WrongVersion
from duet.protocol.golden import FOLDER
from duet.protocol.golden.vectors import EMBEDDING, TABLES
from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.package import (
    SMALLEST_SCALE,
    LayerValues,
    ParameterPackage,
    encode_body,
    peek_header,
    quantize_rows,
    seal,
    tag_of,
)
from duet.protocol.representation import SHARED, Dtype, Form, Representation

RANK = 7
VERSION = bytes(range(16))
TAG = b"8 bytes!"
RAGGED = LayerTable(
    (DynamicLayer("wide", outputs=33, inputs=65), DynamicLayer("one", outputs=1, inputs=1), DynamicLayer("tall", 16, 3))
)
REPRESENTATIONS = [
    SHARED,
    *(
        Representation(form, dtype, rank)
        for form in (Form.FACTORS, Form.COMPOSED)
        for dtype in Dtype
        for rank in (1, 4, 7)
    ),
    *(Representation(Form.FULL, dtype) for dtype in Dtype),
]


def values_for(table: LayerTable, *, seed: int = 0, scale: float = 1.0) -> dict[str, LayerValues]:
    random = np.random.default_rng(seed)

    def normal(*shape: int):
        return (random.standard_normal(shape) * scale).astype(np.float32)

    return {
        layer.name: LayerValues(
            left=normal(RANK, layer.outputs),
            right=normal(RANK, layer.inputs),
            weight=normal(layer.outputs, layer.inputs),
            shift=normal(layer.outputs),
        )
        for layer in table
    }


def shared_for(table: LayerTable):
    generated = values_for(table, seed=99)
    return {layer.name: (generated[layer.name].weight, generated[layer.name].shift) for layer in table}


def package_for(representation: Representation, table: LayerTable = RAGGED, **options) -> bytes:
    body = encode_body(values_for(table, **options), representation, table)
    return seal(body, representation=representation, version=VERSION, table=table, tag=TAG)


def stored(array: np.ndarray, dtype: Dtype) -> np.ndarray:
    """What is left of an array after a trip through the body, said independently of the encoder."""
    if dtype is Dtype.FLOAT32:
        return array
    if dtype is Dtype.FLOAT16:
        return array.astype(np.float16).astype(np.float32)
    scale = np.maximum((np.abs(array).max(axis=1, keepdims=True) / np.float32(127)).astype(np.float16), SMALLEST_SCALE)
    scale = scale.astype(np.float32)
    return np.clip(np.round(array / scale), -127, 127) * scale


@settings(derandomize=True, deadline=None, max_examples=120)
@given(
    st.lists(st.tuples(*[st.sampled_from([1, 2, 5, 16, 33, 65])] * 2), min_size=1, max_size=3),
    st.sampled_from(REPRESENTATIONS),
    st.integers(0, 2**32),
    st.sampled_from([1e-7, 1e-3, 1.0, 100.0]),
)
@pytest.mark.parametrize("as_buffer", [bytes, bytearray, memoryview])
def test_what_is_encoded_is_decoded(as_buffer, shapes, representation, seed, scale):
    table = LayerTable(tuple(DynamicLayer(f"layer{place}", *shape) for place, shape in enumerate(shapes)))
    given_values = values_for(table, seed=seed, scale=scale)

    data = seal(
        encode_body(given_values, representation, table),
        representation=representation,
        version=VERSION,
        table=table,
        tag=TAG,
    )
    package = ParameterPackage.decode(as_buffer(data), table, version=VERSION)

    assert len(data) == table.package_bytes(representation)
    assert (package.representation, package.version, package.tag) == (representation, VERSION, TAG)
    assert package.encode() == data
    decoded = package.values()
    assert list(decoded) == ([] if representation == SHARED else [layer.name for layer in table])
    vector_dtype = Dtype.FLOAT32 if representation.dtype is Dtype.FLOAT32 else Dtype.FLOAT16
    for name, layer in decoded.items():
        expected = {"shift": stored(given_values[name].shift, vector_dtype)}
        roles = ("left", "right") if representation.form is Form.FACTORS else ("weight",)
        for role in roles:
            array = getattr(given_values[name], role)
            rows = array[: representation.rank] if role in ("left", "right") else array
            expected[role] = stored(rows, representation.dtype)
        held = {role: array for role, array in vars(layer).items() if array is not None}
        assert held.keys() == expected.keys()
        for role, array in expected.items():
            assert held[role].dtype == np.float32
            np.testing.assert_array_equal(held[role], array, err_msg=f"{role} of {name}")


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(-8e6, 8e6, width=32, allow_subnormal=True),
    )
)
def test_int8_is_within_half_a_step_of_the_rounded_scale(rows):
    quantised, scales = quantize_rows(rows)

    steps = scales.astype(np.float64)[:, None]
    error = np.abs(rows - quantised * steps)
    # a scale that float16 rounded down clips the largest numbers of a row: by its rounding, times 127, at most
    clipped = np.maximum(np.abs(rows) - 127 * steps, 0)
    assert (error <= np.maximum(0.5001 * steps, clipped)).all()
    assert (clipped <= 127 * np.maximum(steps * 2.0**-11, 2.0**-25) * 1.0001).all()
    assert np.abs(quantised.astype(int)).max() <= 127
    assert (scales > 0).all()


def test_a_row_of_zeros_and_a_tiny_row_keep_a_usable_scale():
    quantised, scales = quantize_rows(np.array([[0, 0], [1e-8, -1e-8], [1e-3, -5e-4]], np.float32))

    assert scales[0] == scales[1] == SMALLEST_SCALE == np.float16(2**-24)
    assert quantised[:2].tolist() == [[0, 0], [0, 0]]
    assert quantised[2].tolist() == [127, -64]


def test_ties_round_to_even():
    quantised, scales = quantize_rows(np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32))

    assert scales.tolist() == [1]
    assert quantised.tolist() == [[127, 0, 2, 2, 0, -2]]


def test_lower_ranks_take_the_first_rows_of_nested_factors():
    package = ParameterPackage.decode(package_for(Representation(Form.FACTORS, Dtype.FLOAT32, 2)), RAGGED)

    expected = values_for(RAGGED)["wide"]
    np.testing.assert_array_equal(package.values()["wide"].left, expected.left[:2])
    np.testing.assert_array_equal(package.values()["wide"].right, expected.right[:2])


@pytest.mark.parametrize("representation", REPRESENTATIONS, ids=str)
def test_composing_gives_what_the_device_swaps_in(representation):
    package = ParameterPackage.decode(package_for(representation), RAGGED)

    composed = package.compose(shared_for(RAGGED))

    for name, (weight, bias) in shared_for(RAGGED).items():
        layer = package.values().get(name)
        if representation.form is Form.FACTORS:
            weight, bias = weight + np.einsum("rm,rk->mk", layer.left, layer.right), bias + layer.shift
        elif representation.form is Form.FULL:
            weight, bias = weight + layer.weight, bias + layer.shift
        elif representation.form is Form.COMPOSED:
            weight, bias = layer.weight, layer.shift
        for array, expected in zip(composed[name], (weight, bias), strict=True):
            assert (array.dtype, array.flags.c_contiguous) == (np.float32, True)
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5)


def test_composing_with_another_classifier_is_a_programming_mistake():
    package = ParameterPackage.decode(package_for(SHARED), RAGGED)
    shared = shared_for(RAGGED)

    for wrong in ({}, {**shared, "one": (np.zeros((1, 2), np.float32), np.zeros(1, np.float32))}):
        with pytest.raises(ValueError, match="Expected shared weight"):
            package.compose(wrong)


def test_a_sum_that_overflows_is_refused_before_a_device_swaps_it_in():
    table = LayerTable((DynamicLayer("d", 2, 2),))
    huge = LayerValues(
        left=np.full((1, 2), 3e38, np.float32), right=np.full((1, 2), 3e38, np.float32), shift=np.zeros(2, np.float32)
    )
    representation = Representation(Form.FACTORS, Dtype.FLOAT32, 1)
    body = encode_body({"d": huge}, representation, table)
    package = ParameterPackage.decode(seal(body, representation=representation, version=VERSION, table=table), table)

    with pytest.raises(CorruptPackage, match="not finite"):
        package.compose({"d": (np.zeros((2, 2), np.float32), np.zeros(2, np.float32))})


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.bin")), ids=lambda path: path.stem)
def test_any_single_flipped_bit_raises(path):
    data = path.read_bytes()
    table = replace(TABLES[path.name.split("-")[0]], embedding_dim=len(EMBEDDING) // 2)
    damaged = bytearray(data)

    for bit in range(8 * len(data)):
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PackageError) as caught:
            ParameterPackage.decode(damaged, table)
        # the fifth byte is the format: only a reader of that format could know better
        assert isinstance(caught.value, UnsupportedPackage if bit // 8 == 4 else CorruptPackage)
        damaged[bit // 8] ^= 1 << bit % 8

    assert ParameterPackage.decode(damaged, table).encode() == data


@pytest.mark.parametrize("length", [0, 1, 4, 63])
def test_less_than_a_header_is_corrupt(length):
    with pytest.raises(CorruptPackage, match=f"{length} bytes"):
        ParameterPackage.decode(package_for(SHARED)[:length], RAGGED)


def test_every_truncation_and_extension_is_corrupt():
    data = package_for(Representation(Form.FACTORS, Dtype.INT8, 1))

    for wrong in [*(data[:length] for length in range(len(data))), data + b"\0", data + data]:
        with pytest.raises(CorruptPackage):
            ParameterPackage.decode(wrong, RAGGED)


def test_another_version_or_layer_table_is_told_from_damage():
    data = package_for(SHARED)

    with pytest.raises(WrongVersion) as caught:
        ParameterPackage.decode(data, RAGGED, version=bytes(16))
    assert VERSION.hex() in caught.value.received
    with pytest.raises(WrongVersion) as caught:
        ParameterPackage.decode(data, LayerTable(RAGGED.layers[::-1]))
    assert RAGGED.digest.hex() in caught.value.received
    assert ParameterPackage.decode(data, RAGGED).version == VERSION


def test_the_header_can_be_read_alone():
    header = peek_header(package_for(Representation(Form.FACTORS, Dtype.INT8, 4))[:64])

    assert (header.form, header.dtype, header.rank) == (1, 3, 4)
    assert (header.version, header.table_digest, header.tag) == (VERSION, RAGGED.digest, TAG)
    assert str(header.representation) == "factors-r4-int8"


def test_a_package_survives_a_trip_between_processes():
    package = ParameterPackage.decode(package_for(Representation(Form.FULL, Dtype.FLOAT16)), RAGGED)

    assert pickle.loads(pickle.dumps(package)) == package


@pytest.mark.parametrize(
    ("weight", "shift", "name", "reason"),
    [
        (None, (2, 0.0), "full-float32", "Expected weight .* got none"),
        (((2, 2), 0.0), None, "full-float32", "Expected shift .* got none"),
        (((2, 3), 0.0), (2, 0.0), "full-int8", r"Expected weight .* got \[2, 3\]"),
        (((2, 2), 0.0), (3, 0.0), "full-int8", r"Expected shift .* got \[3\]"),
        (((2, 2), np.nan), (2, 0.0), "full-int8", "finite"),
        (((2, 2), np.inf), (2, 0.0), "full-float32", "finite"),
        (((2, 2), 9e6), (2, 0.0), "full-int8", "finite"),
        (((2, 2), 7e4), (2, 0.0), "full-float16", "finite"),
        (((2, 2), 0.0), (2, 7e4), "full-int8", "finite"),
    ],
    ids=["no-weight", "no-shift", "weight-shape", "shift-shape", "nan", "infinite", "scale", "float16", "shift"],
)
def test_numbers_that_cannot_be_stored_are_not_encoded(weight, shift, name, reason):
    filled = [None if given is None else np.full(*given, np.float32) for given in (weight, shift)]

    with pytest.raises(ValueError, match=reason):
        encode_body(
            {"d": LayerValues(weight=filled[0], shift=filled[1])},
            Representation.parse(name),
            LayerTable((DynamicLayer("d", 2, 2),)),
        )


@pytest.mark.parametrize("changes", [{"body": b"1"}, {"version": bytes(15)}, {"tag": bytes(9)}], ids=str)
def test_sealing_with_wrong_lengths_is_a_programming_mistake(changes):
    arguments = {"body": b"", "version": VERSION, "tag": TAG, **changes}

    with pytest.raises(ValueError, match="Expected body, version and tag"):
        seal(arguments.pop("body"), representation=SHARED, table=RAGGED, **arguments)


def test_a_tag_changes_with_version_representation_and_sample():
    factors = Representation(Form.FACTORS, Dtype.INT8, 4)

    tags = {
        tag_of(VERSION, factors, b"[1]"),
        tag_of(bytes(16), factors, b"[1]"),
        tag_of(VERSION, SHARED, b"[1]"),
        tag_of(VERSION, factors, b"[2]"),
    }

    assert len(tags) == 4
    assert {len(tag) for tag in tags} == {8}
    assert tag_of(VERSION, factors, b"[1]") in tags
