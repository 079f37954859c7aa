"""Layouts refuse overlaps, misalignment and segments outside the slab."""

import pytest
import torch

from kernels import ComposeLayout, ComposeSegment, Segment, SlabLayout
from kernels.slab_layout import gaps, pitch_bytes
from tests.kernels.ragged_layouts import compose_layout, slab_layout

LAYER = {
    "left": 0,
    "right": 8,
    "shift": 16,
    "base_weight": 0,
    "base_bias": 64,
    "outputs": 8,
    "inputs": 8,
    "rank": 1,
    "target": 0,
    "bias_target": 256,
    "dtype": "float32",
}


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"dtype": "int4"}, "int4"),
        ({"dtype": "int8"}, "scale_target"),
        ({"scale_target": 0}, "scale_target"),
        ({"target": 8}, "multiples of 16"),
        ({"dtype": "int8", "scale_target": 24}, "multiples of 16"),
        ({"target": -16}, "multiples of 16"),
        ({"source": -1}, "source"),
        ({"rows": -1}, "rows"),
    ],
    ids=["dtype", "no-scales", "needless-scales", "unaligned", "unaligned-scales", "negative", "source", "rows"],
)
def test_a_segment_that_cannot_be_written_is_refused_with_the_reason(fields, fact):
    with pytest.raises(ValueError, match=fact):
        Segment(**{"source": 0, "rows": 2, "columns": 3, "target": 16, "dtype": "float32"} | fields)


@pytest.mark.parametrize("size", ["outputs", "inputs"])
def test_a_layer_without_outputs_or_inputs_is_refused(size):
    with pytest.raises(ValueError, match="1 or more outputs and inputs"):
        ComposeSegment(**LAYER | {size: 0})


def test_arrays_that_overlap_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        SlabLayout((Segment(0, 1, 9, 0, "float16"), Segment(9, 1, 1, 16, "float16")), 64)


def test_scales_that_overlap_their_own_array_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        SlabLayout((Segment(0, 9, 1, 16, "int8", 0),), 64)


def test_an_array_beyond_the_slab_is_refused():
    with pytest.raises(ValueError, match="319 slab bytes"):
        ComposeLayout((ComposeSegment(**LAYER | {"bias_target": 288}),), 319)


def test_the_smallest_operands_that_hold_a_layout_are_known():
    factors = slab_layout([(2, 5, "int8"), (1, 3, "float16")], start=7)
    composed = compose_layout([(3, 5, 2, "int8"), (5, 3, 1, "float32")])

    assert factors.required_values == 7 + 13
    assert (composed.required_values, composed.required_base) == (2 * 8 + 3 + 8 + 5, 15 + 3 + 15 + 5)


@pytest.mark.parametrize(
    "layout",
    [
        slab_layout([(4, 33, "int8"), (4, 65, "int8"), (1, 33, "float16")], spare_bytes=50),
        slab_layout([(300, 1, "float16")]),
        SlabLayout((Segment(0, 1, 3, 64, "float32"),), 200),
        compose_layout([(33, 65, 4, "int8"), (1, 127, 1, "float16"), (3, 3, 0, "float32")]),
    ],
    ids=["factors", "many-rows", "one-far-away", "composed"],
)
def test_tiles_cover_every_row_and_every_byte_of_padding_once(layout):
    tiling = layout.tiling
    rows_of = {(s.target): s.rows if hasattr(s, "rows") else s.outputs for s in layout.segments}
    fields = 6 if isinstance(layout, SlabLayout) else 12
    target_field = 3 if isinstance(layout, SlabLayout) else 8
    firsts: dict[int, list[int]] = {}
    zeroed = torch.zeros(pitch_bytes(layout.slab_bytes), dtype=torch.int32)

    for tile in tiling.table:
        firsts.setdefault(tile[target_field], []).append(tile[fields])
        pairs = tile[fields + 1 :]
        for start, length in zip(pairs[::2], pairs[1::2], strict=True):
            zeroed[start : start + length] += 1

    assert firsts == {target: list(range(0, rows, tiling.block_rows)) for target, rows in rows_of.items()}
    expected = torch.zeros_like(zeroed)
    for start, stop in gaps(layout.spans, len(zeroed)):
        expected[start:stop] += 1
    assert torch.equal(zeroed, expected)
    assert all(len(tile) == fields + 1 + 2 * tiling.gap_count for tile in tiling.table)


def test_alignment_is_promised_only_where_every_offset_and_row_keeps_it():
    assert slab_layout([(4, 32, "int8"), (1, 16, "float16")]).tiling.is_aligned
    assert not slab_layout([(4, 32, "int8"), (1, 17, "float16")]).tiling.is_aligned
    assert not slab_layout([(4, 32, "int8")], start=8).tiling.is_aligned
    assert compose_layout([(32, 64, 4, "int8")]).tiling.is_aligned
    assert not compose_layout([(8, 64, 4, "int8")]).tiling.is_aligned
