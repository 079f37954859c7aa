"""What a package may hold: a form, a dtype and a rank, in one comparable value with a stable name.

``shared``, ``factors-r4-int8``, ``full-float16``, ``composed-r4-float32``, ``embedding-float16``: the names stand in
manifests, HTTP headers and metrics, the numbers in the package header.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Self

MAX_RANK = 255
_NAME = re.compile(
    r"(?P<form>factors|composed|full|embedding)(?:-r(?P<rank>[1-9][0-9]{0,2}))?-(?P<dtype>float32|float16|int8)"
)


class Form(IntEnum):
    """What the arrays of a body mean. The values are those of the package header."""

    SHARED = 0
    """No arrays: the device goes back to its shared classifier."""
    FACTORS = 1
    """Low-rank factors and shift, added to the shared classifier on the device."""
    FULL = 2
    """The whole residual matrix and shift, added to the shared classifier on the device."""
    COMPOSED = 3
    """The finished weight and bias, for a device that cannot compose."""
    EMBEDDING = 4
    """The embedding, for a device that holds the version's decoders and generates for itself."""


class Dtype(IntEnum):
    """How the numbers of a body are stored. The values are those of the package header."""

    FLOAT32 = 1
    FLOAT16 = 2
    INT8 = 3


@dataclass(frozen=True, order=True)
class Representation:
    """One way to send the parameters of the dynamic layers.

    Args:
        form: What the arrays mean.
        dtype: How numbers are stored; ``FLOAT32`` for ``SHARED``, which stores none.
        rank: Rows of the factors, or the rank that a composed weight was made with; 0 for the other forms.

    Raises:
        ValueError: If the three do not go together.
    """

    form: Form
    dtype: Dtype
    rank: int = 0

    def __post_init__(self) -> None:
        # plain integers from a header or from JSON become members, or are refused by the enum
        object.__setattr__(self, "form", Form(self.form))
        object.__setattr__(self, "dtype", Dtype(self.dtype))
        if self.form in (Form.FACTORS, Form.COMPOSED):
            if not 1 <= self.rank <= MAX_RANK:
                raise ValueError(f"Expected a rank of 1 to {MAX_RANK} for {self.form.name}, got {self.rank}.")
        elif self.rank != 0:
            raise ValueError(f"Expected rank 0 for {self.form.name}, got {self.rank}.")
        if self.form is Form.SHARED and self.dtype is not Dtype.FLOAT32:
            raise ValueError(f"Expected dtype FLOAT32 for SHARED, which stores no numbers, got {self.dtype.name}.")
        if self.form is Form.EMBEDDING and self.dtype is Dtype.INT8:
            raise ValueError("Expected dtype FLOAT32 or FLOAT16 for EMBEDDING, got INT8.")

    def __str__(self) -> str:
        return _spelled(self.form, self.dtype, self.rank)

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a name as ``str()`` writes it.

        Raises:
            ValueError: If it is not the name of a representation.
        """
        if name == "shared":
            return cls(Form.SHARED, Dtype.FLOAT32)
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"Expected a name such as 'shared', 'factors-r4-int8' or 'full-float16', got {name[:80]!r}."
            )
        return cls(Form[match["form"].upper()], Dtype[match["dtype"].upper()], int(match["rank"] or 0))


@lru_cache(maxsize=1024)
def _spelled(form: Form, dtype: Dtype, rank: int) -> str:
    if form is Form.SHARED:
        return "shared"
    return f"{form.name.lower()}{f'-r{rank}' if rank else ''}-{dtype.name.lower()}"


SHARED = Representation(Form.SHARED, Dtype.FLOAT32)
"""The shared classifier itself, rank 0: the only representation without a body."""
