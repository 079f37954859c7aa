"""Tables of your own: CSV, TSV or Parquet with a user, an item and a time in every row; titles are optional.

Columns are found by name, upper or lower case, with or without ``_``, ``-`` and spaces (``userId`` = ``user_id``); the
first alias of :data:`ALIASES` that occurs wins. Times are numbers, ISO 8601 or Parquet dates; without a zone they are
UTC. Numbers count seconds since 1970, or a smaller unit when the largest one is too large: milliseconds from 1e11,
microseconds from 1e14, nanoseconds from 1e17.
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from duet.data.interactions import Interactions
from duet.data.rows import Id, empty_file, interactions_of_rows, nul_byte, read_bytes, wrong_encoding
from duet.protocol.errors import InvalidData

ALIASES = {
    "user": ("user", "user_id", "uid", "device", "device_id", "customer", "customer_id", "reviewer_id", "visitor_id"),
    "item": ("item", "item_id", "iid", "movie", "movie_id", "product", "product_id", "asin", "article_id", "track_id"),
    "time": ("timestamp", "time", "ts", "datetime", "date", "unix_timestamp", "unix_review_time", "event_time"),
    "title": ("title", "item_title", "movie_title", "product_title", "item_name", "product_name"),
}
"""Names a column may have, by role, best first."""


def load_table(
    path: Path | str,
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    title_column: str | None = None,
) -> Interactions:
    """Load a CSV, TSV or Parquet table; the kind is read from the content, the separator from the header line.

    Args:
        path: UTF-8 text with a header line and ``,``, ``;`` or tab between fields, or Parquet.
        user_column: Exact name of the user column; without it an alias.
        item_column: Exact name of the item column; without it an alias.
        time_column: Exact name of the time column; without it an alias.
        title_column: Exact name of the title column; without it an alias, if there is one. The first title of an item
            is kept.

    Returns:
        Interactions with timestamps.

    Raises:
        InvalidData: A column is missing, a value is empty or of another kind, a row has another number of fields, or
            the file is missing, empty or not UTF-8. Names the line of a text file, the row of a Parquet file.
    """
    path = Path(path)
    table = _read(path)
    wanted = {"user": user_column, "item": item_column, "time": time_column, "title": title_column}
    names = {role: _find_column(table, role, name) for role, name in wanted.items()}
    users = _ids(table, "user", names["user"])
    items = _ids(table, "item", names["item"])
    times = _times(table, names["time"])
    return interactions_of_rows(
        path.stem.lower(), users, items, times, titles=_titles(table, names["title"], items=items)
    )


_LARGEST_TIME = 1e20  # in any unit; not a number is not below it


@dataclass(frozen=True)
class _Table:
    """A table as read, and how to say where a row of it stands."""

    path: Path
    frame: pl.DataFrame
    header: tuple[str, ...]
    """Names of the columns as the file has them; the frame's are made different from each other."""
    line_of: Callable[[int], int]
    row_word: str = ""

    def invalid(self, row: int, *, expected: str, received: str, remedy: str) -> InvalidData:
        """Say what is wrong with the row at position ``row``."""
        return InvalidData(
            path=self.path, line=self.line_of(row), expected=expected, received=received, remedy=remedy + self.row_word
        )


def _read(path: Path) -> _Table:
    data = read_bytes(path)
    if not data.strip():
        raise empty_file(path)
    table = _read_parquet(path, data) if data[:4] == b"PAR1" else _read_csv(path, data)
    if not table.frame.height:
        raise empty_file(path)
    return table


def _read_parquet(path: Path, data: bytes) -> _Table:
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except pl.exceptions.PolarsError as error:
        raise InvalidData(
            path=path, line=None, expected="a complete Parquet file", received=str(error), remedy="Write it again."
        ) from error
    return _Table(
        path,
        frame,
        tuple(frame.columns),
        line_of=lambda row: row + 1,
        row_word=" (Parquet: the line is the row, from 1.)",
    )


def _read_csv(path: Path, data: bytes) -> _Table:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise wrong_encoding(path, data, error.start) from error
    separator = _separator_of(text)
    try:
        frame = pl.read_csv(io.BytesIO(data), separator=separator, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise _malformed_csv(path, text, separator=separator) or InvalidData(
            path=path, line=None, expected="a table", received=str(error), remedy="Write the table again."
        ) from error
    # a blank line is read as a row of nothing; the index keeps the place of the others
    blank = pl.all_horizontal(pl.all().is_null())
    kept = frame.select(pl.arg_where(~blank)).to_series().to_numpy()
    header = tuple(next(row for row in csv.reader(io.StringIO(text), delimiter=separator) if row))
    return _Table(
        path, frame.filter(~blank), header, line_of=lambda row: _line_of_record(text, separator, int(kept[row]))
    )


def _separator_of(text: str) -> str:
    header = text.lstrip("\r\n").split("\n", 1)[0]
    return max(",", "\t", ";", key=header.count)


def _line_of_record(text: str, separator: str, record: int) -> int:
    """Return the line on which a record (0 = first after the header) starts; quoted fields may span lines."""
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    # Polars skips blank lines before the header
    next(row for row in reader if row)
    for _ in range(record):
        next(reader)
    return reader.line_num + 1


def _malformed_csv(path: Path, text: str, *, separator: str) -> InvalidData | None:
    """Find the first record with too many fields, or the quote that is never closed."""
    opened = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count('"') % 2:
            opened = 0 if opened else number
    if opened:
        return InvalidData(
            path=path,
            line=opened,
            expected="every quote to be closed",
            received='an odd number of "',
            remedy='Close the quote, or write "" for a quote inside a quoted field.',
        )
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    fields = len(next(row for row in reader if row))
    start = reader.line_num + 1
    for record in reader:
        if len(record) > fields:
            return InvalidData(
                path=path,
                line=start,
                expected=f"{fields} fields, as the header has",
                received=f"{len(record)}",
                remedy=f"Put values that contain {separator!r} into double quotes.",
            )
        start = reader.line_num + 1
    return None


def _find_column(table: _Table, role: str, name: str | None) -> str | None:
    """Return the column of a role, None for titles that are not there."""
    if name is None:
        keys = {_key(alias): None for alias in ALIASES[role]}
        by_alias = [[column for column in table.header if _key(column) == key] for key in keys]
        found = next((columns for columns in by_alias if columns), [])
    else:
        found = [column for column in table.header if column == name]
    if len(found) == 1 or (role == "title" and name is None and not found):
        return found[0] if found else None
    if found:
        raise InvalidData(
            path=table.path,
            line=None,
            expected=f"one {role} column",
            received="the columns " + ", ".join(map(repr, found)),
            remedy=f"Rename one of them, or name another with {role}_column.",
        )
    option = "" if role == "title" else f" (on the command line: --set data.{role}_column=NAME)"
    raise InvalidData(
        path=table.path,
        line=None,
        expected=f"the {role} column, named " + (repr(name) if name else ", ".join(ALIASES[role][:4]) + " or the like"),
        received="the columns " + ", ".join(map(repr, table.header)),
        remedy=f"Name the column with {role}_column{option}, or give the file a header line.",
    )


def _key(name: str) -> str:
    return "".join(character for character in name.lower() if character not in "_- ")


def _ids(table: _Table, role: str, name: str | None) -> list[Id]:
    column = table.frame[str(name)]
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    if column.dtype != pl.String and not column.dtype.is_integer():
        raise InvalidData(
            path=table.path,
            line=None,
            expected=f"{role} ids that are integers or text",
            received=f"the type {column.dtype} in column {name!r}",
            remedy="Write ids as integers or text (pandas: astype('Int64') or astype(str)).",
        )
    _refuse(table, column.is_null(), expected=f"the {role} id in column {name!r}", remedy="Fill in the id or drop it.")
    if column.dtype == pl.String:
        nul = column.str.contains("\0", literal=True).arg_true()
        if len(nul):
            raise nul_byte(table.path, table.line_of(int(nul[0])))
        spaced = column.str.strip_chars() != column
        shown = f"the {role} id without spaces at its ends"
        _refuse(table, spaced | (column == ""), expected=shown, remedy="Trim or fill in the ids.", column=column)
        decimal = column.str.contains(r"^-?\d+\.0+$")
        if decimal.any():  # 3.0 and 3 would silently be two items
            shown = f"{role} ids that are integers or text"
            remedy = "Write ids without decimals (pandas: astype('Int64'))."
            _refuse(table, decimal, expected=shown, remedy=remedy, column=column)
    ids: list[Id] = column.to_list()
    return ids


def _times(table: _Table, name: str | None) -> NDArray[np.float64] | NDArray[np.int64]:
    """Return seconds since the epoch, ``[n]``."""
    column = table.frame[str(name)]
    expected = f"a time in column {name!r}: a number of seconds, or ISO 8601"
    remedy = "Fill in the time, or write it as seconds since 1970 or like 2024-01-31T12:00:00."
    _refuse(table, column.is_null(), expected=expected, remedy=remedy)
    if column.dtype.is_temporal() and column.dtype in (pl.Date, pl.Datetime):
        micros = column.cast(pl.Datetime("us")).to_physical()
        return micros.to_numpy() / 1e6
    if column.dtype == pl.String:
        column = column.str.strip_chars()
        if column.head(1).cast(pl.Float64, strict=False).is_null().any():
            seconds = column.map_elements(_iso_seconds, return_dtype=pl.Float64)
            numeric = column.cast(pl.Float64, strict=False).is_not_null()
            _refuse(table, seconds.is_null() & numeric, **_one_kind(name, "ISO 8601"), column=column)
            _refuse(table, seconds.is_null(), expected=expected, remedy=remedy, column=column)
            return seconds.to_numpy()
        integers = column.cast(pl.Int64, strict=False)
        numbers = column.cast(pl.Float64, strict=False) if integers.is_null().any() else integers
    elif column.dtype.is_numeric():
        numbers = column.cast(pl.Int64 if column.dtype.is_integer() else pl.Float64, strict=False)
    else:
        raise table.invalid(0, expected=expected, received=f"the type {column.dtype}", remedy=remedy)
    if column.dtype == pl.String and numbers.is_null().any():
        dated = column.map_elements(_iso_seconds, return_dtype=pl.Float64).is_not_null()
        _refuse(table, numbers.is_null() & dated, **_one_kind(name, "a number"), column=column)
    sensible = (numbers.abs() < _LARGEST_TIME).fill_null(value=False)
    _refuse(table, ~sensible, expected=expected, remedy=remedy, column=column)
    return _in_seconds(numbers.to_numpy())


def _one_kind(name: str | None, kind: str) -> dict[str, str]:
    return {
        "expected": f"{kind} in column {name!r}, as in its first row, because a column of times holds one kind",
        "remedy": "Write all times of the column as numbers, or all in ISO 8601.",
    }


def _iso_seconds(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _in_seconds(times: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64] | NDArray[np.int64]:
    largest = float(np.abs(times).max())
    for limit, unit in ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3)):
        if largest >= limit:
            return times / unit
    return times


def _titles(table: _Table, name: str | None, *, items: list[Id]) -> dict[str, str] | None:
    if name is None:
        return None
    titles: dict[str, str] = {}
    for item, title in zip(items, table.frame[name].cast(pl.String).to_list(), strict=True):
        if title:
            titles.setdefault(str(item), title.strip())
    return titles


def _refuse(table: _Table, bad: pl.Series, *, expected: str, remedy: str, column: pl.Series | None = None) -> None:
    """Raise for the first row marked in ``bad``; shows its value in ``column``, or that there is none."""
    rows = bad.arg_true()
    if len(rows):
        row = int(rows[0])
        received = "nothing" if column is None else repr(column[row])
        raise table.invalid(row, expected=expected, received=received, remedy=remedy)
