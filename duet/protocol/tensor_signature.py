"""Samples that are tensors: the last N images, readings or vectors of a device, in JSON or as plain bytes.

Shapes: B batch of devices, N rows that the encoder reads, n rows of a sample.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from duet.protocol.canonical_json import Json
from duet.protocol.errors import InvalidSample

if TYPE_CHECKING:
    from duet.protocol.signature import Vocabulary

MAX_DIMENSIONS = 8
MAX_BYTES = 2**24

_DTYPES: Mapping[str, np.dtype[np.generic]] = MappingProxyType(
    {name: np.dtype(name).newbyteorder("<") for name in ("uint8", "float16", "float32")}
)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class TensorSignature:
    """A sample is a tensor ``[n, ...]`` of one dtype, oldest row first; the last N rows are used.

    A device that has fewer than N rows yet sends those: they are repeated, so that the newest one stays last.

    Args:
        name: Of the models' input.
        dtype: ``"uint8"``, ``"float16"`` or ``"float32"``.
        shape: Of a whole sample: N, then the shape of a row.

    Raises:
        ValueError: If a field is out of range.
    """

    kind: ClassVar[str] = "tensor"

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"Expected a name of lower-case letters, digits and _, got {self.name!r:.80}.")
        if self.dtype not in _DTYPES:
            raise ValueError(f"Expected dtype to be one of {list(_DTYPES)}, got {self.dtype!r:.80}.")
        if not 1 <= len(self.shape) <= MAX_DIMENSIONS or not all(type(size) is int and size > 0 for size in self.shape):
            raise ValueError(f"Expected a shape of 1 to {MAX_DIMENSIONS} sizes from 1 on, got {self.shape!r:.80}.")
        if math.prod(self.shape) * self._dtype.itemsize > MAX_BYTES:
            raise ValueError(f"Expected a sample of at most {MAX_BYTES} bytes, got the shape {list(self.shape)}.")

    @property
    def input_names(self) -> tuple[str, ...]:
        """One input, called ``name``."""
        return (self.name,)

    def validate(self, sample: object, vocabulary: "Vocabulary | None" = None) -> None:
        """Check that the sample is such a tensor; there is nothing for a vocabulary to know.

        Raises:
            InvalidSample: If it is not.
        """
        self._rows(sample)

    def canonical(self, sample: object) -> bytes:
        """Spell the rows that are used as little-endian bytes."""
        return self._rows(sample).tobytes()

    def upload(self, sample: object) -> bytes:
        """Return the rows that are used, as little-endian bytes.

        Raises:
            InvalidSample: If the sample is not what this signature asks for.
        """
        return self.canonical(sample)

    def arrays(self, samples: Sequence[object], vocabulary: "Vocabulary") -> dict[str, npt.NDArray[np.generic]]:
        """Make the input ``[B, N, ...]``.

        Raises:
            InvalidSample: If a sample is not valid.
        """
        array = np.empty((len(samples), *self.shape), self._dtype)
        for place, sample in enumerate(samples):
            rows = self._rows(sample)
            array[place] = rows if len(rows) == self.shape[0] else rows[np.arange(-self.shape[0], 0) % len(rows)]
        return {self.name: array}

    def blank(self, count: int) -> dict[str, npt.NDArray[np.generic]]:
        """Make the input ``[count, N, ...]`` of ones."""
        return {self.name: np.ones((count, *self.shape), self._dtype)}

    def seen(self, sample: object, vocabulary: "Vocabulary") -> tuple[int, ...]:
        """List nothing: a tensor names no output."""
        return ()

    def to_json(self) -> dict[str, Json]:
        """Describe the signature as ``{"kind", "name", "dtype", "shape"}``."""
        return {"kind": self.kind, "name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: If it is anything else.
        """
        if value.keys() != {"kind", "name", "dtype", "shape"} or value["kind"] != cls.kind:
            raise ValueError(f"Expected a tensor signature as {{kind, name, dtype, shape}}, got {value!r:.80}.")
        name, dtype, shape = value["name"], value["dtype"], value["shape"]
        if not (isinstance(name, str) and isinstance(dtype, str) and isinstance(shape, list)):
            raise ValueError(f"Expected strings name and dtype and a list shape, got {value!r:.120}.")
        return cls(name, dtype, tuple(shape))

    @cached_property
    def _dtype(self) -> np.dtype[np.generic]:
        return _DTYPES[self.dtype]

    def _rows(self, sample: object) -> npt.NDArray[np.generic]:
        """Read the last rows of a sample, ``[n, ...]`` with n up to N."""
        if isinstance(sample, bytes):
            rows = self._from_bytes(sample)
        elif isinstance(sample, np.ndarray):
            if sample.dtype != self._dtype or sample.shape[1:] != self.shape[1:] or sample.ndim == 0 or not len(sample):
                raise self._invalid(f"an array of {sample.dtype} {list(sample.shape)}")
            rows = sample[-self.shape[0] :]
        else:
            rows = self._from_lists(sample)
        if self._dtype.kind == "f" and not np.isfinite(rows).all():
            raise self._invalid("numbers that are not finite")
        return rows

    def _from_bytes(self, data: bytes) -> npt.NDArray[np.generic]:
        row_bytes = math.prod(self.shape[1:]) * self._dtype.itemsize
        if not data or len(data) % row_bytes:
            raise self._invalid(f"{len(data)} bytes, where a row has {row_bytes}")
        return np.frombuffer(data[-self.shape[0] * row_bytes :], self._dtype).reshape(-1, *self.shape[1:])

    def _from_lists(self, sample: object) -> npt.NDArray[np.generic]:
        numbers: list[int | float] = []
        count = len(sample) if isinstance(sample, list | tuple) else 0
        if not isinstance(sample, list | tuple) or not count:
            raise self._invalid("an empty list" if isinstance(sample, list | tuple) else _kind_of(sample))
        self._collect(sample[-self.shape[0] :], (), numbers)
        try:
            with np.errstate(over="ignore"):  # what becomes infinite is refused as such
                array = np.array(numbers, np.float64).astype(self._dtype)
        except OverflowError as error:  # an integer beyond float64
            raise self._invalid("numbers that are not finite") from error
        return array.reshape(-1, *self.shape[1:])

    def _collect(self, value: object, place: tuple[int, ...], numbers: list[int | float]) -> None:
        """Add the numbers of nested lists, row by row, holding every level to the shape."""
        depth = len(place)
        if depth < len(self.shape):
            expected = self.shape[depth]
            if not isinstance(value, list | tuple) or (depth and len(value) != expected):
                found = f"a list of {len(value)}" if isinstance(value, list | tuple) else _kind_of(value)
                raise self._invalid(f"{found} at {list(place)}, where {expected} values belong")
            for index, inner in enumerate(value):
                self._collect(inner, (*place, index), numbers)
            return
        is_whole = type(value) is int
        if self._dtype.kind == "f":
            is_number = is_whole or type(value) is float
        else:
            is_number = is_whole and 0 <= value <= np.iinfo(self._dtype).max  # type: ignore[operator,type-var]
        if not is_number:
            raise self._invalid(f"{_kind_of(value)} at {list(place)}")
        numbers.append(value)  # type: ignore[arg-type]

    def _invalid(self, received: str) -> InvalidSample:
        most, *row = self.shape
        values = "integers from 0 to 255" if self.dtype == "uint8" else "finite numbers"
        return InvalidSample(
            expected=f"a tensor {self.dtype} [1 to {most}{''.join(f', {size}' for size in row)}], oldest row first",
            received=received,
            remedy=f"Send nested lists of {values}, or the rows as little-endian bytes in a binary request.",
        )


def _kind_of(value: object) -> str:
    if value is None or isinstance(value, bool | int | float):
        return f"{value!r:.40}"
    return f"a {type(value).__name__}"
