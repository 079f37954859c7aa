"""Layer tables: one digest a table, and slots that neither overlap nor leave their alignment."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet.protocol.layers import ALIGNMENT, DynamicLayer, LayerTable
from duet.protocol.representation import SHARED, Dtype, Form, Representation

TABLE = LayerTable((DynamicLayer("hidden", outputs=33, inputs=65), DynamicLayer("gate", outputs=1, inputs=1)))

sizes = st.sampled_from([1, 2, 3, 8, 16, 17, 33, 65])
tables = st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4).map(
    lambda shapes: LayerTable(tuple(DynamicLayer(f"layer.{place}", *shape) for place, shape in enumerate(shapes)))
)
representations = st.one_of(
    st.just(SHARED),
    st.builds(
        Representation, st.sampled_from([Form.FACTORS, Form.COMPOSED]), st.sampled_from(Dtype), st.integers(1, 9)
    ),
    st.builds(Representation, st.just(Form.FULL), st.sampled_from(Dtype)),
)


def test_the_digest_is_that_of_the_canonical_json():
    text = '[{"inputs":65,"name":"hidden","outputs":33},{"inputs":1,"name":"gate","outputs":1}]'

    assert TABLE.digest == hashlib.sha256(text.encode()).digest()[:16]


def test_order_names_and_sizes_change_the_digest():
    others = [
        LayerTable(TABLE.layers[::-1]),
        LayerTable(TABLE.layers[:1]),
        LayerTable((DynamicLayer("hidden", outputs=65, inputs=33), TABLE.layers[1])),
        LayerTable((DynamicLayer("other", outputs=33, inputs=65), TABLE.layers[1])),
    ]

    assert len({table.digest for table in (TABLE, *others)}) == 5


def test_a_table_is_read_back_from_its_json():
    assert LayerTable.from_json(TABLE.to_json()) == TABLE


@settings(derandomize=True, deadline=None, max_examples=150)
@given(tables, representations)
def test_slots_are_aligned_in_order_and_as_close_as_alignment_allows(table, representation):
    slots = table.slots(representation)

    end = 0
    for slot in slots:
        assert slot.offset % ALIGNMENT == 0
        assert end <= slot.offset < end + ALIGNMENT
        end = slot.offset + slot.rows * slot.columns * np.dtype(slot.dtype).itemsize
        assert slot.end == end
    assert end <= table.body_bytes(representation) < end + ALIGNMENT
    assert table.body_bytes(representation) % ALIGNMENT == 0
    assert table.package_bytes(representation) == 64 + table.body_bytes(representation)


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("shared", []),
        ("factors-r4-float32", ["left float32 4x33", "right float32 4x65", "shift float32 1x33"]),
        ("factors-r4-float16", ["left float16 4x33", "right float16 4x65", "shift float16 1x33"]),
        (
            "factors-r4-int8",
            [
                "left_scale float16 1x4",
                "left int8 4x33",
                "right_scale float16 1x4",
                "right int8 4x65",
                "shift float16 1x33",
            ],
        ),
        ("full-float32", ["weight float32 33x65", "shift float32 1x33"]),
        ("full-int8", ["weight_scale float16 1x33", "weight int8 33x65", "shift float16 1x33"]),
        ("composed-r4-float16", ["weight float16 33x65", "bias float16 1x33"]),
        ("composed-r4-int8", ["weight_scale float16 1x33", "weight int8 33x65", "bias float16 1x33"]),
    ],
)
def test_a_body_holds_these_arrays_in_this_order(name, roles):
    slots = [slot for slot in TABLE.slots(Representation.parse(name)) if slot.layer == "hidden"]

    assert [f"{slot.role} {slot.dtype} {slot.rows}x{slot.columns}" for slot in slots] == roles


def test_a_slot_reads_its_own_bytes_without_a_copy():
    (left, *_) = TABLE.slots(Representation.parse("factors-r1-float32"))
    body = np.arange(400, dtype="<f4").tobytes()

    array = left.read(body)

    assert array.tolist() == [list(range(33))]
    assert array.base is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "", "outputs": 1, "inputs": 1},
        {"name": "a b", "outputs": 1, "inputs": 1},
        {"name": "a\n", "outputs": 1, "inputs": 1},
        {"name": "x" * 200, "outputs": 1, "inputs": 1},
        {"name": 3, "outputs": 1, "inputs": 1},
        {"name": "a", "outputs": 0, "inputs": 1},
        {"name": "a", "outputs": 1, "inputs": -1},
        {"name": "a", "outputs": True, "inputs": 1},
        {"name": "a", "outputs": 1.0, "inputs": 1},
        {"name": "a", "outputs": 2**40, "inputs": 1},
        {"name": "a", "outputs": 1},
        {"name": "a", "outputs": 1, "inputs": 1, "bias": True},
    ],
)
def test_a_layer_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ValueError, match="Expected"):
        LayerTable.from_json([fields])


@pytest.mark.parametrize("value", [None, {}, [], [1], "[]", [TABLE.to_json()[0]] * 2], ids=str)
def test_what_is_no_table_is_refused(value):
    with pytest.raises(ValueError, match="Expected"):
        LayerTable.from_json(value)


def test_a_body_beyond_its_length_field_is_refused_without_making_it():
    table = LayerTable((DynamicLayer("huge", outputs=2**20, inputs=2**20),))

    with pytest.raises(ValueError, match="at most 4294967295 bytes"):
        table.body_bytes(Representation(Form.FULL, Dtype.INT8))
