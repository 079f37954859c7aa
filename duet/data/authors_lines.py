"""Lines of the DUET authors' program: ``user;target;trigger;click;label``, one candidate a line.

    17;204;3,88,12,0,0,0,0,0,0,0;3,88,12,0,0,0,0,0,0,0;1

Integers only. Both sequences have the same length in the whole file, oldest first, padding 0 at the end: their program
takes as the newest item the one before the zeros. The label is 1 for what was chosen, 0 for a negative.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from duet.protocol.errors import InvalidData

_FIELDS = 5


@dataclass(frozen=True)
class AuthorsLine:
    """One line: would this user, who did this, choose that.

    Attributes:
        user: Position of the user.
        target: Catalogue index of the candidate, 1..N.
        trigger: What parameters are generated from, ``T`` catalogue indices, padded with 0 at the end.
        click: What the device has seen, as ``trigger``.
        label: 1 if the user chose it, else 0.
    """

    user: int
    target: int
    trigger: tuple[int, ...]
    click: tuple[int, ...]
    label: int

    def __str__(self) -> str:
        trigger, click = (",".join(map(str, items)) for items in (self.trigger, self.click))
        return f"{self.user};{self.target};{trigger};{click};{self.label}"


def write_authors_lines(path: Path, lines: Iterable[AuthorsLine]) -> int:
    """Write a file and return how many lines it has; it is whole or not there."""
    draft, count = path.with_name(f".{path.name}.tmp"), 0
    try:
        with draft.open("w", encoding="ascii") as file:
            for count, line in enumerate(lines, start=1):  # noqa: B007  # counted for the caller
                file.write(f"{line}\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return count


def read_authors_lines(path: Path) -> Iterator[AuthorsLine]:
    """Read a file line by line.

    Raises:
        InvalidData: If a line is not of this form, or its sequences are not as long as those of the first line.
    """
    length = None
    with path.open(encoding="ascii", errors="replace") as file:
        for number, text in enumerate(file, start=1):
            try:
                fields = text.rstrip("\n").split(";")
                if len(fields) != _FIELDS:
                    raise ValueError(f"{len(fields)} fields")
                trigger, click = (tuple(int(item) for item in fields[place].split(",")) for place in (2, 3))
                line = AuthorsLine(int(fields[0]), int(fields[1]), trigger, click, int(fields[4]))
                length = length or len(click)
                if {len(trigger), len(click)} != {length} or line.label not in (0, 1):
                    raise ValueError(f"sequences of {len(trigger)} and {len(click)} items and the label {line.label}")
            except ValueError as error:
                raise InvalidData(
                    path=path,
                    line=number,
                    expected="user;target;trigger;click;label, integers, both sequences as long as in the first line",
                    received=f"{text.rstrip()[:80]!r} ({error})",
                    remedy="Export the split again with `duet data export`.",
                ) from error
            yield line
