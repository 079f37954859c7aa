"""Where the generated numbers of one device lie, in the flat values read and in the slab of bytes written.

A *slab* is the body of one parameter package. A layout is plain numbers, worked out once per model version and
representation by whoever knows the package format; the operations of this room only follow it.

Shapes: B batch of devices, M output features, K input features, R rank, P flat parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Literal, TypeAlias

DTYPES: dict[str, int] = {"float32": 4, "float16": 2, "int8": 1}
"""Bytes per element of every dtype that a slab can hold."""

SLAB_ALIGNMENT = 16
"""Every array of a slab starts at a multiple of this many bytes."""

DTYPE_CODES: dict[str, int] = {"float32": 0, "float16": 1, "int8": 2}
"""How a tile table names a dtype."""

_TILE_ELEMENTS = 2048
_SMALLEST_TILE_COLUMNS = 16
_LARGEST_TILE_COLUMNS = 1024

SlabDtype: TypeAlias = Literal["float32", "float16", "int8"]
Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Tiling:
    """A layout cut into tiles for one grouped launch over (device, tile).

    A row of the table holds the fields of its array, then the first row of the tile, then ``gap_count`` pairs
    (first byte, bytes): the tiles share the zeroing of what no array covers. Compared by identity, so that what is
    derived from it is found at the cost of a pointer.

    Attributes:
        table: One row a tile.
        gap_count: Pairs at the end of every row of the table.
        block_rows: Rows of a tile, a power of two.
        block_columns: Columns of a tile, a power of two.
        is_wide: Whether some array has longer rows than a tile; its rows are then walked in several steps.
        is_aligned: Whether every offset and row length read from the table is a multiple of 16 elements or bytes.
    """

    table: tuple[tuple[int, ...], ...]
    gap_count: int
    block_rows: int
    block_columns: int
    is_wide: bool
    is_aligned: bool


@dataclass(frozen=True)
class Segment:
    """One array ``[rows, columns]`` that is copied from the flat values into the slab, cast or quantised on the way.

    The values are read row by row, so a segment with fewer rows than the generator emits is a truncated one.

    Attributes:
        source: First element in the flat values ``[P]``.
        rows: Rows; a row shares one scale when it is quantised.
        columns: Elements in a row.
        target: First byte in the slab.
        dtype: What the slab holds.
        scale_target: First byte of the float16 row scales, ``int8`` only.
    """

    source: int
    rows: int
    columns: int
    target: int
    dtype: SlabDtype
    scale_target: int = -1

    def __post_init__(self) -> None:
        _check_dtype(self.dtype, self.scale_target)
        _check_counts(source=self.source, rows=self.rows, columns=self.columns)
        _check_alignment(self.spans)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The half-open byte ranges of the slab that this segment fills."""
        data = (self.target, self.target + self.rows * self.columns * DTYPES[self.dtype])
        return _with_scales(data, self.scale_target, self.rows)

    @property
    def source_end(self) -> int:
        """One past the last flat value that this segment reads."""
        return self.source + self.rows * self.columns


@dataclass(frozen=True)
class SlabLayout:
    """What :func:`kernels.quantize_factors.quantize_factors` writes for one device.

    Attributes:
        segments: The arrays, in any order; they do not overlap.
        slab_bytes: Length of a slab; bytes that no segment covers are zero.
    """

    segments: tuple[Segment, ...]
    slab_bytes: int

    def __post_init__(self) -> None:
        _check_spans(self.spans, self.slab_bytes)

    @property
    def spans(self) -> list[Span]:
        """The byte ranges that the segments fill, sorted."""
        return _sorted_spans(segment.spans for segment in self.segments)

    @cached_property
    def required_values(self) -> int:
        """The smallest number of flat values ``P`` that holds every segment."""
        return max((segment.source_end for segment in self.segments), default=0)

    @cached_property
    def tiling(self) -> Tiling:
        """Tiles with the fields source, rows, columns, target, scale_target, dtype code."""
        return _tiling(
            [
                (
                    segment.rows,
                    segment.columns,
                    (
                        segment.source,
                        segment.rows,
                        segment.columns,
                        segment.target,
                        segment.scale_target,
                        DTYPE_CODES[segment.dtype],
                    ),
                )
                for segment in self.segments
            ],
            list(gaps(self.spans, pitch_bytes(self.slab_bytes))),
            is_aligned=all((segment.source | segment.columns) % 16 == 0 for segment in self.segments),
        )


@dataclass(frozen=True)
class ComposeSegment:
    """One dynamic layer: where its factors and its shared parameters are read, where weight and bias are written.

    Attributes:
        left: First flat value of the left factors, rank-major ``[R, M]``.
        right: First flat value of the right factors ``[R, K]``.
        shift: First flat value of the shift ``[M]``.
        base_weight: First element of the shared weight ``[M, K]`` in the flat base.
        base_bias: First element of the shared bias ``[M]`` in the flat base.
        outputs: ``M``.
        inputs: ``K``.
        rank: How many rows of the factors are used.
        target: First byte of the weight in the slab.
        bias_target: First byte of the bias in the slab.
        dtype: What the weight is stored as; the bias is float32 beside float32, float16 otherwise.
        scale_target: First byte of the float16 row scales, ``int8`` only.
    """

    left: int
    right: int
    shift: int
    base_weight: int
    base_bias: int
    outputs: int
    inputs: int
    rank: int
    target: int
    bias_target: int
    dtype: SlabDtype
    scale_target: int = -1

    def __post_init__(self) -> None:
        _check_dtype(self.dtype, self.scale_target)
        _check_counts(
            left=self.left,
            right=self.right,
            shift=self.shift,
            base_weight=self.base_weight,
            base_bias=self.base_bias,
            rank=self.rank,
        )
        if self.outputs < 1 or self.inputs < 1:
            raise ValueError(f"Expected a layer of 1 or more outputs and inputs, got {self.outputs} x {self.inputs}.")
        _check_alignment(self.spans)

    @property
    def bias_dtype(self) -> SlabDtype:
        """What the bias is stored as."""
        return "float32" if self.dtype == "float32" else "float16"

    @property
    def spans(self) -> tuple[Span, ...]:
        """The half-open byte ranges of the slab that this segment fills."""
        weight = (self.target, self.target + self.outputs * self.inputs * DTYPES[self.dtype])
        bias = (self.bias_target, self.bias_target + self.outputs * DTYPES[self.bias_dtype])
        return (*_with_scales(weight, self.scale_target, self.outputs), bias)

    @property
    def source_end(self) -> int:
        """One past the last flat value that this segment reads."""
        return max(
            self.left + self.rank * self.outputs,
            self.right + self.rank * self.inputs,
            self.shift + self.outputs,
        )

    @property
    def base_end(self) -> int:
        """One past the last element of the flat base that this segment reads."""
        return max(self.base_weight + self.outputs * self.inputs, self.base_bias + self.outputs)


@dataclass(frozen=True)
class ComposeLayout:
    """What :func:`kernels.compose_weights.compose_weights` writes for one device.

    Attributes:
        segments: The dynamic layers, in any order; their arrays do not overlap.
        slab_bytes: Length of a slab; bytes that no segment covers are zero.
    """

    segments: tuple[ComposeSegment, ...]
    slab_bytes: int

    def __post_init__(self) -> None:
        _check_spans(self.spans, self.slab_bytes)

    @property
    def spans(self) -> list[Span]:
        """The byte ranges that the segments fill, sorted."""
        return _sorted_spans(segment.spans for segment in self.segments)

    @cached_property
    def required_values(self) -> int:
        """The smallest number of flat values ``P`` that holds every segment."""
        return max((segment.source_end for segment in self.segments), default=0)

    @cached_property
    def required_base(self) -> int:
        """The smallest length of the flat base that holds every segment."""
        return max((segment.base_end for segment in self.segments), default=0)

    @cached_property
    def tiling(self) -> Tiling:
        """Tiles with the fields left, right, shift, base_weight, base_bias, M, K, R, targets, dtype code."""
        return _tiling(
            [
                (
                    segment.outputs,
                    segment.inputs,
                    (
                        segment.left,
                        segment.right,
                        segment.shift,
                        segment.base_weight,
                        segment.base_bias,
                        segment.outputs,
                        segment.inputs,
                        segment.rank,
                        segment.target,
                        segment.scale_target,
                        segment.bias_target,
                        DTYPE_CODES[segment.dtype],
                    ),
                )
                for segment in self.segments
            ],
            list(gaps(self.spans, pitch_bytes(self.slab_bytes))),
            is_aligned=all(
                (
                    segment.left
                    | segment.right
                    | segment.shift
                    | segment.base_weight
                    | segment.base_bias
                    | segment.outputs
                    | segment.inputs
                )
                % 16
                == 0
                for segment in self.segments
            ),
        )


def pitch_bytes(slab_bytes: int) -> int:
    """Return the distance between two slabs: their length rounded up, so that every slab starts aligned."""
    return -(-slab_bytes // SLAB_ALIGNMENT) * SLAB_ALIGNMENT


def gaps(spans: Iterable[Span], end: int) -> Iterator[Span]:
    """Yield the byte ranges of ``[0, end)`` that sorted ``spans`` leave out, in order, none of them empty."""
    position = 0
    for start, stop in spans:
        if start > position:
            yield position, start
        position = max(position, stop)
    if end > position:
        yield position, end


def _tiling(arrays: list[tuple[int, int, tuple[int, ...]]], zeros: list[Span], *, is_aligned: bool) -> Tiling:
    arrays = [(rows, columns, fields) for rows, columns, fields in arrays if rows and columns]
    longest = max((columns for _, columns, _ in arrays), default=1)
    block_columns = min(max(_power_of_two(longest), _SMALLEST_TILE_COLUMNS), _LARGEST_TILE_COLUMNS)
    most_rows = max((rows for rows, _, _ in arrays), default=1)
    block_rows = min(_power_of_two(most_rows), _TILE_ELEMENTS // block_columns)
    tiles = [(*fields, first) for rows, _, fields in arrays for first in range(0, rows, block_rows)]
    gap_count = -(-len(zeros) // len(tiles)) if tiles else 0
    pairs = [(start, stop - start) for start, stop in zeros]
    pairs += [(0, 0)] * (gap_count * len(tiles) - len(pairs))
    table = tuple((*tile, *chain(*pairs[i :: len(tiles)])) for i, tile in enumerate(tiles))
    return Tiling(table, gap_count, block_rows, block_columns, longest > block_columns, is_aligned)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _with_scales(data: Span, scale_target: int, rows: int) -> tuple[Span, ...]:
    return (data,) if scale_target < 0 else ((scale_target, scale_target + rows * DTYPES["float16"]), data)


def _sorted_spans(spans: Iterable[tuple[Span, ...]]) -> list[Span]:
    return sorted((start, stop) for group in spans for start, stop in group if stop > start)


def _check_dtype(dtype: str, scale_target: int) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"Expected a dtype of {', '.join(DTYPES)}, got {dtype!r}.")
    if (dtype == "int8") != (scale_target >= 0):
        raise ValueError(f"Expected scale_target for int8 and only for int8, got {scale_target} with {dtype}.")


def _check_counts(**counts: int) -> None:
    negative = {name: count for name, count in counts.items() if count < 0}
    if negative:
        raise ValueError(f"Expected offsets and sizes of 0 or more, got {negative}.")


def _check_alignment(spans: tuple[Span, ...]) -> None:
    unaligned = [start for start, _ in spans if start < 0 or start % SLAB_ALIGNMENT]
    if unaligned:
        raise ValueError(f"Expected targets at multiples of {SLAB_ALIGNMENT} bytes, got {unaligned}.")


def _check_spans(spans: list[Span], slab_bytes: int) -> None:
    for (_, stop), (start, _) in pairwise(spans):
        if start < stop:
            raise ValueError(f"Expected arrays that do not overlap, but one starts at {start} before {stop}.")
    if spans and spans[-1][1] > slab_bytes:
        raise ValueError(f"Expected arrays within {slab_bytes} slab bytes, but one ends at {spans[-1][1]}.")
