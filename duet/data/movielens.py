"""MovieLens-100K and MovieLens-1M from GroupLens' own files; every rating counts as an interaction, whatever its value.

ML-100K   u.data          user <tab> item <tab> rating <tab> seconds       titles in u.item beside it (latin-1)
ML-1M     ratings.dat     user::item::rating::seconds                      titles in movies.dat beside it (latin-1)
ML-1M     sequences.txt   user item item ... (no times)                    titles in movies.dat beside it (latin-1)
"""

from operator import methodcaller
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duet.data.interactions import Interactions
from duet.data.rows import interactions_of_rows, read_bytes, read_text
from duet.data.sequence_lines import read_sequence_lines
from duet.protocol.errors import InvalidData


def load_movielens_100k(path: Path | str) -> Interactions:
    """Load MovieLens-100K.

    Args:
        path: ``u.data``, or the folder that holds it. Titles come from ``u.item`` in the same folder, if it is there.

    Returns:
        Interactions with timestamps.

    Raises:
        InvalidData: A row is not four integers, a title row has no title, or a file is missing or empty.
    """
    file = _inside(Path(path), "u.data")
    users, items, times = _read_ratings(file, "\t", "<tab>")
    titles = _read_titles(file.with_name("u.item"), "|")
    return interactions_of_rows("movielens-100k", users, items, times, titles=titles)


def load_movielens_1m(path: Path | str) -> Interactions:
    """Load MovieLens-1M.

    Args:
        path: ``ratings.dat``, ``sequences.txt`` (any ``.txt`` without ``::``), or the folder that holds one of them; a
            folder with both is read from ``ratings.dat``, which has the times. Titles come from ``movies.dat`` in the
            same folder, if it is there.

    Returns:
        Interactions, with timestamps when they come from ``ratings.dat``.

    Raises:
        InvalidData: A row has another form, a title row has no title, or a file is missing or empty.
    """
    file = _inside(Path(path), "ratings.dat", "sequences.txt")
    titles = _read_titles(file.with_name("movies.dat"), "::")
    if file.suffix == ".txt" and b"::" not in read_bytes(file, 4096).split(b"\n", 1)[0]:
        users, items = read_sequence_lines(file)
        return interactions_of_rows("movielens-1m", users, items, titles=titles)
    users, items, times = _read_ratings(file, "::", "::")
    return interactions_of_rows("movielens-1m", users, items, times, titles=titles)


def _inside(path: Path, *names: str) -> Path:
    """Return ``path``, or the first of ``names`` that exists in it when it is a folder."""
    if not path.is_dir():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    raise InvalidData(
        path=path,
        line=None,
        expected=f"a folder with {' or '.join(names)}",
        received=", ".join(sorted(entry.name for entry in path.iterdir())) or "an empty folder",
        remedy="Name the folder that was unpacked from the MovieLens archive, or the file itself.",
    )


def _read_ratings(path: Path, separator: str, shown: str) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """Read rows of user, item, rating, time; returns user ids, item ids and times in whole seconds, ``[n]``."""
    text = read_text(path).rstrip("\n")
    lines = text.split("\n")
    # whole columns are checked at once, which takes a third of the time of checking rows
    if set(map(methodcaller("count", separator), lines)) == {3}:
        fields = text.replace(separator, "\n").split("\n")
        users, items, times = fields[0::4], fields[1::4], fields[3::4]
        if all(map(_is_id, set(users))) and all(map(_is_id, set(items))) and all(map(_is_time, times)):
            return users, items, np.fromiter(map(int, times), dtype=np.int64, count=len(times))
    number = next(at for at, line in enumerate(lines, start=1) if not _is_rating(line.split(separator)))
    raise InvalidData(
        path=path,
        line=number,
        expected=shown.join(["user", "item", "rating", "seconds"]) + " with integer ids and time",
        received=repr(lines[number - 1]),
        remedy="Use the file as GroupLens publishes it; a log of your own goes into a CSV or Parquet table.",
    )


def _is_rating(row: list[str]) -> bool:
    return len(row) == 4 and _is_id(row[0]) and _is_id(row[1]) and _is_time(row[3])


def _is_id(text: str) -> bool:
    return text.isdecimal()


def _is_time(text: str) -> bool:
    return text.isdecimal() and len(text) < 12


def _read_titles(path: Path, separator: str) -> dict[str, str] | None:
    """Read ``id<separator>title<separator>...`` rows in latin-1; None when there is no such file."""
    if not path.is_file():
        return None
    titles: dict[str, str] = {}
    for number, line in enumerate(read_text(path, "latin-1").rstrip("\n").split("\n"), start=1):
        fields = line.split(separator)
        if len(fields) < 2 or not fields[0].isdecimal() or not fields[1].strip():
            raise InvalidData(
                path=path,
                line=number,
                expected=f"item{separator}title{separator}...",
                received=repr(line),
                remedy="Use the file as GroupLens publishes it, or remove it to go on without titles.",
            )
        titles[fields[0]] = fields[1].strip()
    return titles
