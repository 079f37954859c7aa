"""Sequence files: one line a user, ``user item item ...``, separated by white space, in time order (Amazon Beauty)."""

from pathlib import Path

from duet.data.interactions import Interactions
from duet.data.rows import interactions_of_rows, nul_byte, read_text
from duet.protocol.errors import InvalidData


def load_sequence_lines(path: Path | str, *, name: str | None = None) -> Interactions:
    """Load a sequence file. Blank lines are ignored; the order within a line is kept, so are repeated items.

    Args:
        path: UTF-8 text file.
        name: Name of the data set; without it the file's name without its ending, in lower case.

    Returns:
        Interactions without titles and timestamps.

    Raises:
        InvalidData: A line without items, a user on two lines, or a file that is missing, empty or not UTF-8.
    """
    path = Path(path)
    users, items = read_sequence_lines(path)
    return interactions_of_rows(name or path.stem.lower(), users, items)


def read_sequence_lines(path: Path) -> tuple[list[str], list[str]]:
    """Read a sequence file as one row an interaction.

    Returns:
        Raw user ids and raw item ids, one of each a row, in the order of the file.

    Raises:
        InvalidData: As :func:`load_sequence_lines`.
    """
    users: list[str] = []
    items: list[str] = []
    line_of_user: dict[str, int] = {}
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        fields = text.split()
        if not fields:
            continue
        if "\0" in text:
            raise nul_byte(path, line)
        user, touched = fields[0], fields[1:]
        if not touched:
            raise InvalidData(
                path=path,
                line=line,
                expected="a user id and at least one item id, separated by spaces",
                received=repr(text),
                remedy="Remove the line or add the user's items; a table with commas must be named *.csv.",
            )
        if user in line_of_user:
            raise InvalidData(
                path=path,
                line=line,
                expected="one line a user",
                received=f"user {user!r} again, first seen in line {line_of_user[user]}",
                remedy="Join the lines of a user, oldest items first.",
            )
        line_of_user[user] = line
        users += [user] * len(touched)
        items += touched
    return users, items
