"""CSV, TSV and Parquet: columns by name, times of any kind, errors with line and remedy."""

import time
from datetime import UTC, date, datetime

import polars as pl
import pytest

from duet.data.tables import load_table
from duet.protocol.errors import InvalidData


def sequences(data):
    return {user: [data.item_ids[item - 1] for item in data.sequence(at)] for at, user in enumerate(data.users)}


def write(tmp_path, content, name="log.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        pytest.param(["user", "item", "timestamp"], ",", id="plain"),
        pytest.param(["user_id", "item_id", "ts"], "\t", id="tab"),
        pytest.param(["userId", "movieId", "timestamp"], ";", id="MovieLens-20M"),
        pytest.param(["Reviewer ID", "ASIN", "unixReviewTime"], ",", id="Amazon"),
        pytest.param(["\ufeffuser", "product-id", "TIME"], ",", id="byte order mark"),
    ],
)
def test_columns_are_found_by_their_usual_names(tmp_path, header, separator):
    rows = [header, ["7", "20", "2"], ["7", "3", "1"], ["6", "3", "5"]]
    path = write(tmp_path, "\n".join(separator.join(row) for row in rows))

    data = load_table(path)

    assert data.name == "log"
    assert sequences(data) == {"6": [3], "7": [3, 20]}
    assert data.timestamps is not None
    assert data.timestamps.tolist() == [5, 1, 2]


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path, "who,what,user,when\nann,x,1,2\nann,y,2,1\n")

    data = load_table(path, user_column="who", item_column="what", time_column="when")

    assert sequences(data) == {"ann": ["y", "x"]}


def test_titles_come_from_a_title_column(tmp_path):
    path = write(tmp_path, 'user,item,ts,title\n1,5,1,"Godfather, The"\n1,6,2,\n2,5,3,Godfather\n')

    assert load_table(path).titles == ("Godfather, The", "Item 6")


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        pytest.param(["1700000000", "1700000001"], [1_700_000_000, 1_700_000_001], id="seconds"),
        pytest.param(["1700000000.25", "1700000001"], [1_700_000_000, 1_700_000_001], id="fractions"),
        pytest.param(["1700000000999", "1700000001000"], [1_700_000_000, 1_700_000_001], id="milliseconds"),
        pytest.param(["1700000000000000", "1700000001000000"], [1_700_000_000, 1_700_000_001], id="microseconds"),
        pytest.param(
            ["1700000000" + "0" * 9, "1700000001" + "0" * 9], [1_700_000_000, 1_700_000_001], id="nanoseconds"
        ),
        pytest.param(["2023-11-14T22:13:20", "2023-11-14T22:13:21Z"], [1_700_000_000, 1_700_000_001], id="ISO"),
        pytest.param(["2023-11-14", "2023-11-15"], [1_699_920_000, 1_700_006_400], id="days"),
        pytest.param(["0", "1"], [0, 1], id="a counter"),
    ],
)
def test_times_are_numbers_or_iso_8601(tmp_path, times, seconds):
    path = write(tmp_path, f"user,item,ts\n1,5,{times[0]}\n1,6,{times[1]}\n")

    data = load_table(path)

    assert data.timestamps is not None
    assert data.timestamps.tolist() == seconds


@pytest.mark.parametrize(
    "times",
    [
        pytest.param([2, 1], id="integers"),
        pytest.param([2.5, 1.5], id="floats"),
        pytest.param([datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)], id="moments"),
        pytest.param([date(2024, 1, 2), date(2024, 1, 1)], id="days"),
        pytest.param(["2024-01-02", "2024-01-01"], id="text"),
    ],
)
def test_parquet_is_read_by_content_whatever_its_name(tmp_path, times):
    path = tmp_path / "log.bin"
    pl.DataFrame({"user": ["ann", "ann"], "item": [10, 9], "ts": times}).write_parquet(path)

    assert sequences(load_table(path)) == {"ann": [9, 10]}


def test_parquet_categories_are_text(tmp_path):
    path = tmp_path / "log.parquet"
    items = pl.Series(["b", "a"], dtype=pl.Categorical)
    pl.DataFrame({"user": [1, 1], "item": items, "ts": [2, 1]}).write_parquet(path)

    assert sequences(load_table(path)) == {"1": ["a", "b"]}


def test_blank_lines_are_ignored_and_later_lines_keep_their_number(tmp_path):
    path = write(tmp_path, 'user,item,ts,note\n1,5,1,"two\nlines"\n\n1,6,2,x\n1,7,soon,x\n')

    with pytest.raises(InvalidData) as refused:
        load_table(path)

    assert refused.value.line == 6


@pytest.mark.parametrize(
    ("row", "expected", "received"),
    [
        pytest.param("1,7", "a time", "nothing", id="missing field"),
        pytest.param("1,7,2,9", "3 fields", "4", id="extra field"),
        pytest.param("1,,2", "the item id", "nothing", id="empty item"),
        pytest.param(",7,2", "the user id", "nothing", id="empty user"),
        pytest.param("1, 7,2", "without spaces", "' 7'", id="space before the id"),
        pytest.param("1,7,soon", "a number of seconds", "'soon'", id="time is text"),
        pytest.param("1,7,nan", "a number of seconds", "'nan'", id="time is not a number"),
        pytest.param("1,7,1e400", "a number of seconds", "'1e400'", id="time is infinite"),
        pytest.param("1,7,2024-01-01", "holds one kind", "'2024-01-01'", id="two kinds of time"),
        pytest.param("1,7\0,2", "ids without NUL", "0x00", id="NUL in the item id"),
        pytest.param("1\0,7,2", "ids without NUL", "0x00", id="NUL in the user id"),
        pytest.param('1,"7,2', "every quote to be closed", "odd number", id="open quote"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path, row, expected, received):
    path = write(tmp_path, f"user,item,ts\n1,5,1\n{row}\n1,6,3\n")

    with pytest.raises(InvalidData) as refused:
        load_table(path)

    assert (refused.value.path, refused.value.line) == (str(path), 3)
    assert expected in refused.value.expected
    assert received in refused.value.received
    assert refused.value.remedy


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_iso_times_without_a_zone_are_utc_wherever_the_machine_is(tmp_path, monkeypatch, zone):
    path = write(tmp_path, "user,item,ts\n1,5,2023-11-14T22:13:20\n")
    with monkeypatch.context() as environment:
        environment.setenv("TZ", zone)
        time.tzset()
        data = load_table(path)
    time.tzset()

    assert data.timestamps is not None
    assert data.timestamps.tolist() == [1_700_000_000]


def test_a_bad_iso_time_is_refused_with_its_line(tmp_path):
    path = write(tmp_path, "user,item,ts\n1,5,2024-01-01\n1,6,2024-13-01\n")

    with pytest.raises(InvalidData) as refused:
        load_table(path)

    assert (refused.value.line, refused.value.received) == (3, "'2024-13-01'")


def test_a_number_among_iso_times_is_another_kind_and_not_a_bad_time(tmp_path):
    path = write(tmp_path, "user,item,ts\n1,5,2024-01-01\n1,6,1700000000\n")

    with pytest.raises(InvalidData) as refused:
        load_table(path)

    assert (refused.value.line, refused.value.received) == (3, "'1700000000'")
    assert "ISO 8601 in column 'ts', as in its first row" in refused.value.expected
    assert refused.value.remedy == "Write all times of the column as numbers, or all in ISO 8601."


@pytest.mark.parametrize(
    ("header", "received"),
    [
        pytest.param("user,item,user,ts", "'user', 'user'", id="the same name"),
        pytest.param("userId,item,user_id,ts", "'userId', 'user_id'", id="two spellings of it"),
    ],
)
def test_two_columns_for_one_role_are_refused(tmp_path, header, received):
    path = write(tmp_path, f"{header}\n1,2,3,4\n")

    with pytest.raises(InvalidData) as refused:
        load_table(path)

    assert refused.value.expected == "one user column"
    assert refused.value.received == f"the columns {received}"


def test_of_two_spellings_one_can_be_named(tmp_path):
    path = write(tmp_path, "userId,item,user_id,ts\n1,2,3,4\n")

    assert load_table(path, user_column="user_id").users == ("3",)


def test_a_name_twice_is_refused_when_it_is_asked_for_and_else_ignored(tmp_path):
    path = write(tmp_path, "user,note,item,note,ts\n1,2,3,4,5\n")

    assert load_table(path).users == ("1",)
    with pytest.raises(InvalidData, match="'note', 'note'"):
        load_table(path, user_column="note")


def test_blank_lines_before_the_header_count_as_lines(tmp_path):
    path = write(tmp_path, "\n\nuser;item;ts\n1;5;1\n1;6;soon\n")

    with pytest.raises(InvalidData) as refused:
        load_table(path)

    assert refused.value.line == 5


def test_inner_spaces_of_ids_are_kept(tmp_path):
    path = write(tmp_path, "user,item,ts\nann lee,green tea,1\n")

    assert sequences(load_table(path)) == {"ann lee": ["green tea"]}


@pytest.mark.parametrize("missing", ["user", "item", "timestamp"])
def test_a_missing_column_is_refused_with_those_that_are_there(tmp_path, missing):
    names = [name for name in ("user", "item", "timestamp") if name != missing]
    path = write(tmp_path, ",".join(names) + "\n1,2\n")

    with pytest.raises(InvalidData) as refused:
        load_table(path)

    assert missing.replace("timestamp", "time") in refused.value.expected
    assert refused.value.received == f"the columns {names[0]!r}, {names[1]!r}"
    assert f"--set data.{missing.replace('timestamp', 'time')}_column=NAME" in refused.value.remedy


def test_a_named_column_that_is_missing_is_refused_even_if_an_alias_is_there(tmp_path):
    path = write(tmp_path, "user,item,ts\n1,2,3\n")

    with pytest.raises(InvalidData, match="the user column, named 'who'"):
        load_table(path, user_column="who")


@pytest.mark.parametrize(
    ("content", "line", "received"),
    [
        pytest.param(b"", None, "none", id="empty"),
        pytest.param(b"user,item,ts\n", None, "none", id="header only"),
        pytest.param(b"user,item,ts\n\n\n", None, "none", id="header and blank lines"),
        pytest.param("user,item,ts\n1,café,3\n".encode("latin-1"), 2, "0xe9", id="latin-1"),
        pytest.param("user,item,ts\n1,2,3\n".encode("utf-16"), 1, "0xff", id="UTF-16"),
        pytest.param(b"PAR1 and no more", None, "parquet", id="truncated Parquet"),
        pytest.param(b"user,item,ts\n1.0,5,1\n2.0,5,2\n", 2, "'1.0'", id="decimal ids"),
        pytest.param(b"user,item,ts\na,1,1\na,3.0,2\na,3,3\n", 3, "'3.0'", id="one decimal id among others"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, content, line, received):
    path = write(tmp_path, content)

    with pytest.raises(InvalidData) as refused:
        load_table(path)

    assert refused.value.line == line
    assert received in refused.value.received
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("column", "values", "line"),
    [
        pytest.param("user", ["1", None], 2, id="null user"),
        pytest.param("item", [1, None], 2, id="null item"),
        pytest.param("item", [1.0, 2.0], None, id="float item"),
        pytest.param("item", [[1], [2]], None, id="list item"),
        pytest.param("ts", [1, None], 2, id="null time"),
        pytest.param("ts", [1.0, float("nan")], 2, id="time is not a number"),
        pytest.param("ts", [True, False], 1, id="time is a truth value"),
    ],
)
def test_a_bad_parquet_column_is_refused_with_its_row(tmp_path, column, values, line):
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user": ["1", "1"], "item": [1, 2], "ts": [1, 2], column: values}).write_parquet(path)

    with pytest.raises(InvalidData) as refused:
        load_table(path)

    assert refused.value.line == line
    assert repr(column) in refused.value.expected + refused.value.received


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(InvalidData, match="directory"):
        load_table(tmp_path)
    with pytest.raises(InvalidData, match=r"No such file.*--data"):
        load_table(tmp_path / "missing.csv")
