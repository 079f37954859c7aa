"""Rows of (user, item, time) as a file has them -> :class:`Interactions`: the one place for ids, order and duplicates.

Rules, for every format:

- Ids are integers when every id of the column is written as a plain integer (``0``, ``42``, ``-7``: at most 18 digits,
  no leading zero, no plus sign), else all of them stay text. User ids are sorted by the same rule, then kept as text.
- Users and catalogue items are in the order of their raw ids: integers numerically, text by code point. The catalogue
  holds the items that occur.
- Within a user, rows are sorted by time, then by raw item id; a source without times keeps its own order.
- A row that repeats user, item and time of another counts once. A user may touch an item again at another time.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duet.data.interactions import Interactions
from duet.protocol.errors import InvalidData

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")

Id = str | int

CHECK_THE_PATH = "Check the path (on the command line: --data); relative paths start at the current folder."
"""What to do about a path that leads nowhere."""


def interactions_of_rows(
    name: str,
    users: Sequence[Id],
    items: Sequence[Id],
    times: NDArray[np.float64] | NDArray[np.int64] | None = None,
    *,
    titles: Mapping[str, str] | None = None,
) -> Interactions:
    """Number users and items, sort every user's rows by the rules of this module and drop repeated rows.

    Args:
        name: Name of the data set.
        users: Raw user id of every row.
        items: Raw item id of every row.
        times: Seconds since the epoch of every row, fractions allowed for the order; None keeps the order of the rows.
        titles: Title by raw item id written as text; an item without one is called ``Item <id>``.

    Returns:
        Interactions with timestamps in whole seconds, or without when ``times`` is None.
    """
    user_ids, user_codes = number_ids(users)
    item_ids, item_codes = number_ids(items)
    if times is None:
        order = np.argsort(user_codes, kind="stable")
    else:
        order = np.lexsort((item_codes, times, user_codes))
        columns = np.stack([user_codes[order], item_codes[order]])
        repeated = (columns[:, 1:] == columns[:, :-1]).all(axis=0) & (np.diff(times[order]) == 0)
        order = order[np.concatenate([[True], ~repeated])]
    counts = np.bincount(user_codes[order], minlength=len(user_ids))
    return Interactions(
        name=name,
        items=(item_codes[order] + 1).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        users=tuple(str(user) for user in user_ids),
        item_ids=item_ids,
        titles=None if titles is None else tuple(titles.get(str(item), f"Item {item}") for item in item_ids),
        timestamps=None if times is None else np.floor(times[order]).astype(np.int64),
    )


def number_ids(raw: Sequence[Id]) -> tuple[tuple[Id, ...], NDArray[np.int64]]:
    """Give every distinct id of a column its place in the order of ids.

    Args:
        raw: Ids of one column; all integers or all text.

    Returns:
        The distinct ids in order, as integers if all are, and the place of every row's id, int64 ``[n]``.
    """
    distinct = set(raw)
    texts = [value for value in distinct if isinstance(value, str)]
    keys: dict[Id, Id]
    if all(_INTEGER.fullmatch(text) for text in texts):
        keys = {value: int(value) for value in distinct}
    else:
        keys = {value: str(value) for value in distinct}
    ordered = sorted(distinct, key=lambda value: keys[value])
    places = {value: place for place, value in enumerate(ordered)}
    codes = np.fromiter(map(places.__getitem__, raw), dtype=np.int64, count=len(raw))
    return tuple(keys[value] for value in ordered), codes


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    r"""Read a whole text file.

    Args:
        path: File to read.
        encoding: Encoding it must have; the default accepts a byte order mark.

    Returns:
        The text, with line ends as ``\n``.

    Raises:
        InvalidData: The file is missing, a folder, empty, or has another encoding.
    """
    data = read_bytes(path)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise wrong_encoding(path, data, error.start) from error
    if not text.strip():
        raise empty_file(path)
    return text.replace("\r\n", "\n")


def read_bytes(path: Path, most: int = -1) -> bytes:
    """Read a file, up to ``most`` bytes unless that is negative.

    Raises:
        InvalidData: There is no such file, it is a folder, or it may not be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise InvalidData(
            path=path,
            line=None,
            expected="a file that can be read",
            received=error.strerror or str(error),
            remedy=CHECK_THE_PATH,
        ) from error


def wrong_encoding(path: Path, data: bytes, position: int) -> InvalidData:
    """Say where a file stops being UTF-8; ``position`` is the offset of the first byte that is not."""
    return InvalidData(
        path=path,
        line=data.count(b"\n", 0, position) + 1,
        expected="UTF-8 text",
        received=f"the byte 0x{data[position]:02x}",
        remedy="Save the file as UTF-8.",
    )


def nul_byte(path: Path, line: int) -> InvalidData:
    """Say that an id holds a character that ends text in half of the programs that will read it."""
    return InvalidData(
        path=path,
        line=line,
        expected="ids without NUL",
        received="the byte 0x00",
        remedy="Remove it; UTF-16 has many of them: save such a file as UTF-8.",
    )


def empty_file(path: Path) -> InvalidData:
    """Say that a file has no interactions."""
    return InvalidData(
        path=path,
        line=None,
        expected="at least one interaction",
        received="none",
        remedy="Check that the export is complete.",
    )
