"""What a benchmark was to show, what it found, and whether that is enough."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One number against its target.

    Attributes:
        what: That was measured.
        found: The number, with its unit.
        target: What it was to be.
        holds: Whether it is.
    """

    what: str
    found: str
    target: str
    holds: bool

    def __str__(self) -> str:
        return f"{'PASS' if self.holds else 'FAIL'}  {self.what}: {self.found} (target: {self.target})"


def at_least(what: str, found: float, target: float, form: str = ".4f") -> Claim:
    """Claim that a number is large enough; NaN is not."""
    return Claim(what, f"{found:{form}}", f">= {target:{form}}", found >= target)


def at_most(what: str, found: float, target: float, form: str = ".2f") -> Claim:
    """Claim that a number is small enough; NaN is not."""
    return Claim(what, f"{found:{form}}", f"<= {target:{form}}", found <= target)


def conclude(claims: Sequence[Claim]) -> None:
    """Print every claim; exit with 1 unless there is one and all hold."""
    for claim in claims:
        print(claim, flush=True)
    if not claims or not all(claim.holds for claim in claims):
        sys.exit(1)
