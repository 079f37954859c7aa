"""Where the generated numbers of one device lie, in the flat values read and in the slab of bytes written.

A *slab* is the body of one parameter package. A layout is plain numbers, worked out once per model version and
representation by whoever knows the package format; the operations of this room only follow it. The layouts of a version
are its *plans*: each device of a batch names one, and a single launch serves them all.

Shapes: B batch of devices, M output features, K input features, R rank, P flat parameters.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias

DTYPES: dict[str, int] = {"float32": 4, "float16": 2, "int8": 1}
"""Bytes per element of every dtype that a slab can hold."""

DTYPE_CODES: dict[str, int] = {"float32": 0, "float16": 1, "int8": 2}
"""How a tile table names a dtype."""

GAP_CODE = 3
"""How a host table names bytes that are to be zero."""

SLAB_ALIGNMENT = 16
"""Every slab and every array of a slab starts at a multiple of this many bytes."""

_SMALLEST_TILE_COLUMNS = 16
_HOST_FIELDS = 10

SlabDtype: TypeAlias = Literal["float32", "float16", "int8"]
Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Segment:
    """One array ``[rows, columns]`` of a slab: a sum of what is present, cast or quantised when it is stored.

        base  +  direct  +  sum_r left[r] (outer) right[r]

    A factor of a low-rank package is direct; the weight of a composed one is base plus product, its bias base plus
    direct. Everything is read row by row, so a segment with a smaller rank or fewer rows than the generator emits is a
    truncated one.

    Attributes:
        rows: Rows; a row shares one scale when it is quantised.
        columns: Elements in a row.
        target: First byte in the slab.
        dtype: What the slab holds.
        scale_target: First byte of the float16 row scales, ``int8`` only.
        source: First direct element in the flat values ``[P]``, or -1.
        base: First element in the flat shared parameters, or -1.
        left: First left factor ``[rank, rows]`` in the flat values, or -1.
        right: First right factor ``[rank, columns]`` in the flat values, or -1.
        rank: How many rows of the factors are used; 0 for none.
    """

    rows: int
    columns: int
    target: int
    dtype: SlabDtype
    scale_target: int = -1
    source: int = -1
    base: int = -1
    left: int = -1
    right: int = -1
    rank: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"Expected a dtype of {', '.join(DTYPES)}, got {self.dtype!r}.")
        if (self.dtype == "int8") != (self.scale_target >= 0):
            raise ValueError(
                f"Expected scale_target for int8 and only for int8, got {self.scale_target} with {self.dtype}."
            )
        if min(self.rows, self.columns, self.rank) < 0:
            raise ValueError(f"Expected sizes of 0 or more, got {self.rows} x {self.columns}, rank {self.rank}.")
        if self.rank and min(self.left, self.right) < 0:
            raise ValueError(f"Expected left and right for rank {self.rank}, got {self.left} and {self.right}.")
        if max(self.source, self.base) < 0 and not self.rank and self.elements:
            raise ValueError("Expected a source, a base or factors to fill a segment from, got none.")
        unaligned = [start for start, _ in self.spans if start < 0 or start % SLAB_ALIGNMENT]
        if unaligned:
            raise ValueError(f"Expected targets at multiples of {SLAB_ALIGNMENT} bytes, got {unaligned}.")

    @property
    def elements(self) -> int:
        """Elements of the array."""
        return self.rows * self.columns

    @property
    def spans(self) -> tuple[Span, ...]:
        """The half-open byte ranges of the slab that this segment fills."""
        data = (self.target, self.target + self.elements * DTYPES[self.dtype])
        scales = (self.scale_target, self.scale_target + self.rows * DTYPES["float16"])
        return (data,) if self.scale_target < 0 else (scales, data)

    @property
    def values_end(self) -> int:
        """One past the last flat value that this segment reads."""
        ends = [self.source + self.elements] if self.source >= 0 else []
        ends += [self.left + self.rank * self.rows, self.right + self.rank * self.columns] if self.rank else []
        return max(ends, default=0)

    @property
    def base_end(self) -> int:
        """One past the last shared parameter that this segment reads."""
        return self.base + self.elements if self.base >= 0 else 0

    @property
    def is_direct(self) -> bool:
        """Whether nothing is added: the segment is stored values."""
        return self.base < 0 and not self.rank


@dataclass(frozen=True, eq=False)
class SlabLayout:
    """What is written for one device. Compared by identity, so that what is derived from it is found quickly.

    Attributes:
        segments: The arrays, in any order; they do not overlap.
        slab_bytes: Length of a slab; bytes that no segment covers are zero.
    """

    segments: tuple[Segment, ...]
    slab_bytes: int

    def __post_init__(self) -> None:
        for (_, stop), (start, _) in pairwise(self.spans):
            if start < stop:
                raise ValueError(f"Expected arrays that do not overlap, but one starts at {start} before {stop}.")
        if self.spans and self.spans[-1][1] > self.slab_bytes:
            raise ValueError(
                f"Expected arrays within {self.slab_bytes} slab bytes, but one ends at {self.spans[-1][1]}."
            )

    @cached_property
    def spans(self) -> list[Span]:
        """The byte ranges that the segments fill, sorted."""
        return sorted(span for segment in self.segments for span in segment.spans if span[1] > span[0])

    @cached_property
    def filled(self) -> tuple[Segment, ...]:
        """The segments that hold something."""
        return tuple(segment for segment in self.segments if segment.elements)

    @cached_property
    def alike(self) -> list[tuple[SlabDtype, list[Segment], bool]]:
        """The filled segments in groups of equal dtype and ``columns``, whose rows are stored alike.

        With whether a group is stored values that lie one after the other.
        """
        groups: dict[tuple[SlabDtype, int], list[Segment]] = {}
        for segment in self.filled:
            groups.setdefault((segment.dtype, segment.columns), []).append(segment)
        return [
            (dtype, its, its[0].is_direct and all(a.values_end == b.source and b.is_direct for a, b in pairwise(its)))
            for (dtype, _), its in groups.items()
        ]

    @cached_property
    def has_padding(self) -> bool:
        """Whether there are bytes that no segment fills, up to the next slab."""
        return any(_gaps(self.spans, self.pitch))

    @cached_property
    def is_direct(self) -> bool:
        """Whether nothing is added in any segment."""
        return all(segment.is_direct for segment in self.segments)

    @cached_property
    def elements(self) -> int:
        """Elements of all segments."""
        return sum(segment.elements for segment in self.segments)

    @cached_property
    def required_values(self) -> int:
        """The smallest number of flat values ``P`` that holds every segment."""
        return max((segment.values_end for segment in self.segments), default=0)

    @cached_property
    def required_base(self) -> int:
        """The smallest length of the flat shared parameters that holds every segment."""
        return max((segment.base_end for segment in self.segments), default=0)

    @property
    def pitch(self) -> int:
        """Bytes from this slab to the next: its length rounded up, so that every slab starts aligned."""
        return -(-self.slab_bytes // SLAB_ALIGNMENT) * SLAB_ALIGNMENT


@dataclass(frozen=True)
class TileLimits:
    """The largest tile, in powers of two: elements in all, rows, columns."""

    elements: int
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class TileTable:
    """The tiles of all plans for one grouped launch over (device, tile).

    A row holds source, base, left, right, rows, columns, rank, target and scale_target in units of ``SLAB_ALIGNMENT``,
    dtype code and the first row of the tile, then ``gap_count`` pairs (first byte, bytes): the tiles of a plan share
    the zeroing of what no array covers.

    Attributes:
        rows: One row a tile, the tiles of a plan one after the other.
        spans: First tile and number of tiles of every plan.
        gap_count: Pairs at the end of every row.
        block_rows: Rows of a tile, a power of two.
        block_columns: Columns of a tile, a power of two.
        block_rank: The largest rank, rounded up to a power of two; 0 where nothing is multiplied.
        is_wide: Whether some array has longer rows than a tile; its rows are then walked in several steps.
        is_aligned: Whether every offset and row length read from the table is a multiple of 16 elements.
    """

    rows: tuple[tuple[int, ...], ...]
    spans: tuple[Span, ...]
    gap_count: int
    block_rows: int
    block_columns: int
    block_rank: int
    is_wide: bool
    is_aligned: bool

    def tiles_of(self, chosen: Iterable[int]) -> int:
        """Return how many tiles the largest of some plans has."""
        return max((self.spans[plan][1] for plan in chosen), default=0)


@dataclass(frozen=True, eq=False)
class HostTable:
    """The arrays of all plans as ``host_slabs.c`` reads them, 64-bit integers.

    Attributes:
        arrays: Rows of source, base, left, right, rows, columns, rank, target, scale_target and dtype code; then the
            gaps of a plan, as arrays of :data:`GAP_CODE` whose columns are bytes.
        plans: Rows of first array, number of arrays, pitch.
        longest_row: The most columns of an array.
    """

    arrays: array[int]
    plans: array[int]
    longest_row: int


class Plans:
    """The layouts a device may ask for, by number. Compared by identity."""

    def __init__(self, layouts: Sequence[SlabLayout]) -> None:
        self.layouts = tuple(layouts)
        self._pitches = [layout.pitch for layout in self.layouts]
        self._tiles: dict[TileLimits, TileTable] = {}
        self.required_values = max((layout.required_values for layout in self.layouts), default=0)
        self.required_base = max((layout.required_base for layout in self.layouts), default=0)
        self.is_direct = all(layout.is_direct for layout in self.layouts)

    def starts(self, chosen: Sequence[int]) -> list[int]:
        """Return the first byte of every device's slab in one buffer, and the length of the buffer last."""
        return list(accumulate(map(self._pitches.__getitem__, chosen), initial=0))

    @cached_property
    def host_table(self) -> HostTable:
        """Every plan as a list of arrays; worked out once."""
        arrays, plans = array("q"), array("q")
        for layout in self.layouts:
            first = len(arrays) // _HOST_FIELDS
            for segment in layout.filled:
                fields = segment.source, segment.base, segment.left, segment.right
                sizes = segment.rows, segment.columns, segment.rank
                arrays.extend((*fields, *sizes, segment.target, segment.scale_target, DTYPE_CODES[segment.dtype]))
            for start, stop in _gaps(layout.spans, layout.pitch):
                arrays.extend((-1, -1, -1, -1, 0, stop - start, 0, start, -1, GAP_CODE))
            plans.extend((first, len(arrays) // _HOST_FIELDS - first, layout.pitch))
        longest = max((segment.columns for layout in self.layouts for segment in layout.filled), default=0)
        return HostTable(arrays, plans, longest)

    def tiles(self, limits: TileLimits) -> TileTable:
        """Cut every plan into tiles; worked out once."""
        if limits not in self._tiles:
            self._tiles[limits] = self._cut(limits)
        return self._tiles[limits]

    def _cut(self, limits: TileLimits) -> TileTable:
        arrays = [list(layout.filled) for layout in self.layouts]
        every = [segment for segments in arrays for segment in segments]
        longest = max((segment.columns for segment in every), default=1)
        block_columns = min(max(_power_of_two(longest), _SMALLEST_TILE_COLUMNS), limits.columns)
        tallest = max((segment.rows for segment in every), default=1)
        block_rows = max(1, min(_power_of_two(tallest), limits.rows, limits.elements // block_columns))
        largest_rank = max((segment.rank for segment in every), default=0)
        gaps = [list(_gaps(layout.spans, layout.pitch)) for layout in self.layouts]
        # where there is padding only, a tile without rows zeroes it
        arrays = [segments or [_NOTHING] * bool(zeros) for segments, zeros in zip(arrays, gaps, strict=True)]
        counts = [sum(max(1, -(-segment.rows // block_rows)) for segment in segments) for segments in arrays]
        gap_count = max(
            (-(-len(zeros) // count) for zeros, count in zip(gaps, counts, strict=True) if count), default=0
        )
        rows: list[tuple[int, ...]] = []
        for segments, zeros, count in zip(arrays, gaps, counts, strict=True):
            pairs = [(start, stop - start) for start, stop in zeros]
            pairs += [(0, 0)] * (gap_count * count - len(pairs))
            cut = ((segment, first) for segment in segments for first in range(0, segment.rows or 1, block_rows))
            rows += (
                (*_fields(segment), first, *(number for pair in pairs[i::count] for number in pair))
                for i, (segment, first) in enumerate(cut)
            )
        firsts = accumulate(counts, initial=0)
        return TileTable(
            rows=tuple(rows),
            spans=tuple(zip(firsts, counts, strict=False)),
            gap_count=gap_count,
            block_rows=block_rows,
            block_columns=block_columns,
            block_rank=_power_of_two(largest_rank) if largest_rank else 0,
            is_wide=longest > block_columns,
            is_aligned=all(_is_aligned(segment) for segment in every),
        )


_NOTHING = Segment(0, 0, 0, "float32")


def _fields(segment: Segment) -> tuple[int, ...]:
    return (
        segment.source,
        segment.base,
        segment.left,
        segment.right,
        segment.rows,
        segment.columns,
        segment.rank,
        segment.target // SLAB_ALIGNMENT,
        segment.scale_target // SLAB_ALIGNMENT,
        DTYPE_CODES[segment.dtype],
    )


def _is_aligned(segment: Segment) -> bool:
    offsets = [segment.columns, *(start for start in (segment.source, segment.base) if start >= 0)]
    # rows of the left factors are as long as the array has rows
    offsets += [segment.left, segment.right, segment.rows] if segment.rank else []
    return all(offset % 16 == 0 for offset in offsets)


def _gaps(spans: Iterable[Span], end: int) -> Iterator[Span]:
    """Yield the byte ranges of ``[0, end)`` that sorted ``spans`` leave out, in order, none of them empty."""
    position = 0
    for start, stop in spans:
        if start > position:
            yield position, start
        position = max(position, stop)
    if end > position:
        yield position, end


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
