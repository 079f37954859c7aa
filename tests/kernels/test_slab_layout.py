"""Layouts refuse overlaps, misalignment and segments outside the slab."""

import pytest
import torch

from kernels import Plans, Segment, SlabLayout
from kernels.slab_layout import TileLimits
from tests.kernels.ragged_layouts import compose_layout, slab_layout

LIMITS = TileLimits(elements=2048, rows=64, columns=1024)


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"dtype": "int4"}, "int4"),
        ({"dtype": "int8"}, "scale_target"),
        ({"scale_target": 0}, "scale_target"),
        ({"target": 8}, "multiples of 16"),
        ({"dtype": "int8", "scale_target": 24}, "multiples of 16"),
        ({"target": -16}, "multiples of 16"),
        ({"source": -1}, "a source, a base or factors"),
        ({"rows": -1}, "sizes of 0 or more"),
        ({"rank": 2, "left": 0}, "left and right for rank 2"),
    ],
    ids=[
        "dtype",
        "no-scales",
        "needless-scales",
        "unaligned",
        "unaligned-scales",
        "negative",
        "source",
        "rows",
        "rank",
    ],
)
def test_a_segment_that_cannot_be_written_is_refused_with_the_reason(fields, fact):
    with pytest.raises(ValueError, match=fact):
        Segment(**{"source": 0, "rows": 2, "columns": 3, "target": 16, "dtype": "float32"} | fields)


def test_arrays_that_overlap_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        SlabLayout((Segment(1, 9, 0, "float16", source=0), Segment(1, 1, 16, "float16", source=9)), 64)


def test_scales_that_overlap_their_own_array_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        SlabLayout((Segment(9, 1, 16, "int8", 0, source=0),), 64)


def test_an_array_beyond_the_slab_is_refused():
    with pytest.raises(ValueError, match="319 slab bytes"):
        SlabLayout((Segment(1, 8, 288, "float32", base=0),), 319)


def test_the_smallest_operands_that_hold_a_layout_are_known():
    factors = slab_layout([(2, 5, "int8"), (1, 3, "float16")], start=7)
    composed = compose_layout([(3, 5, 2, "int8"), (5, 3, 1, "float32")])

    assert (Plans([factors]).required_values, Plans([factors]).required_base) == (7 + 13, 0)
    both = Plans([factors, composed])
    assert (both.required_values, both.required_base) == (2 * 8 + 3 + 8 + 5, 15 + 3 + 15 + 5)
    assert Plans([factors]).is_direct
    assert not both.is_direct


@pytest.mark.parametrize(
    "layout",
    [
        slab_layout([(4, 33, "int8"), (4, 65, "int8"), (1, 33, "float16")], spare_bytes=50),
        slab_layout([(300, 1, "float16")]),
        SlabLayout((Segment(1, 3, 64, "float32", source=0),), 200),
        compose_layout([(33, 65, 4, "int8"), (1, 127, 1, "float16"), (3, 3, 0, "float32")]),
    ],
    ids=["factors", "many-rows", "one-far-away", "composed"],
)
def test_tiles_cover_every_row_and_every_byte_of_padding_once(layout):
    other = slab_layout([(5, 7, "float16")])
    table = Plans([other, layout]).tiles(LIMITS)
    first, count = table.spans[1]
    firsts: dict[int, list[int]] = {}
    zeroed = torch.zeros(layout.pitch, dtype=torch.int32)

    for tile in table.rows[first : first + count]:
        firsts.setdefault(16 * tile[7], []).append(tile[10])
        pairs = tile[11:]
        for start, length in zip(pairs[::2], pairs[1::2], strict=True):
            zeroed[start : start + length] += 1

    assert firsts == {s.target: list(range(0, s.rows, table.block_rows)) for s in layout.segments}
    expected = torch.ones_like(zeroed)
    for start, stop in layout.spans:
        expected[start:stop] = 0
    assert torch.equal(zeroed, expected)
    assert all(len(tile) == 11 + 2 * table.gap_count for tile in table.rows)


def test_a_plan_of_padding_only_has_a_tile_that_zeroes_it():
    table = Plans([SlabLayout((), 40), SlabLayout((), 0)]).tiles(LIMITS)

    assert table.spans == ((0, 1), (1, 0))
    assert table.rows[0][10:] == (0, 0, 48)


def test_alignment_is_promised_only_where_every_offset_and_row_keeps_it():
    def is_aligned(*layouts):
        return Plans(layouts).tiles(LIMITS).is_aligned

    assert is_aligned(slab_layout([(4, 32, "int8"), (1, 16, "float16")]))
    assert not is_aligned(slab_layout([(4, 32, "int8"), (1, 17, "float16")]))
    assert not is_aligned(slab_layout([(4, 32, "int8")], start=8))
    assert is_aligned(compose_layout([(32, 64, 4, "int8")]))
    assert not is_aligned(compose_layout([(8, 64, 4, "int8")]))
    assert not is_aligned(compose_layout([(32, 64, 4, "int8")]), compose_layout([(8, 64, 4, "int8")]))
