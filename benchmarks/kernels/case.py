"""One thing to time: an operation at one size, ours and a plain form of it, and how far their results may differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Function: TypeAlias = Callable[..., object]
Transform: TypeAlias = Callable[[Function], Function]
Call: TypeAlias = Callable[[], object]

OURS = "ours"


@dataclass(frozen=True)
class Tolerance:
    """How far the numbers of one array may be from ours; by default not at all.

    Attributes:
        absolute: The largest difference of an element.
        relative: The same in units of the largest magnitude in the array; the two add up.
        share: How many of the elements may differ at all, but always one.
    """

    absolute: float = 0.0
    relative: float = 0.0
    share: float = 1.0


Arrays: TypeAlias = Mapping[str, tuple[Tensor, Tolerance]]


@dataclass(frozen=True)
class Case:
    """An operation at one size.

    Attributes:
        operation: Its name, that of a file in ``kernels/``.
        name: Shapes and what is stored, without the batch.
        batch: Devices in the batch, ``B``; rows, ``N``, of ``apply_low_rank``.
        ours: The operation as callers use it, with the backend left open.
        plain: Builds the same function in plain PyTorch, its arithmetic transformed by what is given: torch.compile.
        call: Runs either of them on the operands of the case, a backward pass included where there is one.
        arrays: Takes the result of a call apart into named arrays, each with its tolerance.
        bytes_moved: What has to be read and written at least once, each operand and each result counted once a pass.
        trains: Whether a backward pass is timed too; everything else runs in inference mode, as in serving.
        instructions: Machine instructions of all threads together, where docs/decisions/0007 counted them.
    """

    operation: str
    name: str
    batch: int
    ours: Function
    plain: Callable[[Transform], Function]
    call: Callable[[Function], object]
    arrays: Callable[[object], Arrays]
    bytes_moved: int
    trains: bool = False
    instructions: float | None = None

    def bound(self, function: Function) -> Call:
        """Return a call of ``function`` on the operands of the case."""
        return lambda: self.call(function)


def first_difference(case: Case, contender: str, result: object, ours: object) -> str | None:
    """Describe the first element of a contender's result that is further from ours than its tolerance, if there is one.

    Args:
        case: Whose results they are.
        contender: Whose result is compared.
        result: What it returned.
        ours: What our operation returned.
    """
    theirs = case.arrays(result)
    for name, (expected, tolerance) in case.arrays(ours).items():
        found = theirs[name][0]
        where = f"{case.operation}, {case.name}, B = {case.batch}: {contender} differs from ours in {name}"
        if found.shape != expected.shape:
            return f"{where}: expected shape {list(expected.shape)}, got {list(found.shape)}."
        one, other = found.detach().double(), expected.detach().double()
        limit = tolerance.absolute + tolerance.relative * (other.abs().max().item() if other.numel() else 0.0)
        # a difference that is NaN is not within any limit
        beyond = ~((one - other).abs() <= limit)
        differs = ~(one == other)
        if differs.sum() > max(1, tolerance.share * differs.numel()):
            beyond = differs
        if beyond.any():
            place = tuple(torch.nonzero(beyond)[0].tolist())
            return (
                f"{where} at {list(place)}: expected {other[place].item():.9g} within {limit:.3g}, "
                f"got {one[place].item():.9g}; {int(differs.sum())} of {differs.numel()} elements differ "
                f"(at most {tolerance.share:.2%} may). Nothing was timed for this case."
            )
    return None
