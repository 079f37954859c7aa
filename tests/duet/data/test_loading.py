"""A source string finds its loader; what is no data set is refused with a remedy."""

import os
import subprocess
import sys

import pytest

from duet.data.loading import absolute_source, load
from duet.protocol.errors import InvalidData

RATINGS = {"u.data": "1\t2\t3\t4\n", "ratings.dat": "1::2::3::4\n", "sequences.txt": "1 2 3\n"}


def test_the_synthetic_world_is_loaded_by_preset_and_seed():
    first, again, other = load("synthetic:tiny"), load("synthetic:tiny"), load("synthetic:tiny", seed=1)

    assert first.name == "synthetic-tiny"
    assert first.items.tobytes() == again.items.tobytes()
    assert first.items.tobytes() != other.items.tobytes()


@pytest.mark.parametrize(
    ("files", "source", "name"),
    [
        pytest.param({"u.data": RATINGS["u.data"]}, "", "movielens-100k", id="folder of MovieLens-100K"),
        pytest.param({"u.data": RATINGS["u.data"]}, "u.data", "movielens-100k", id="u.data"),
        pytest.param({"my.tab": RATINGS["u.data"]}, "my.tab", "movielens-100k", id="four integers"),
        pytest.param({"ratings.dat": RATINGS["ratings.dat"]}, "", "movielens-1m", id="folder of MovieLens-1M"),
        pytest.param({"r.txt": RATINGS["ratings.dat"]}, "r.txt", "movielens-1m", id="double colons"),
        pytest.param({"sequences.txt": "1 2 3\n", "movies.dat": "2::A::B\n"}, "", "movielens-1m", id="sequences"),
        pytest.param({"sequences.txt": "1 2 3\n"}, "", "sequences", id="sequences without movies.dat"),
        pytest.param({"Beauty.txt": "1 2 3\n"}, "Beauty.txt", "amazon-beauty", id="Beauty"),
        pytest.param({"mine.log": "ann x y\n"}, "mine.log", "mine", id="sequence lines"),
        pytest.param({"tabs.txt": "1\t2\t3\n"}, "tabs.txt", "tabs", id="sequence lines with tabs"),
        pytest.param({"a.csv": "user,item,ts\n1,2,3\n"}, "a.csv", "a", id="CSV"),
        pytest.param({"a.txt": "user;item;ts\n1;2;3\n", "notes.md": "x"}, "", "a", id="the only data file"),
    ],
)
def test_the_format_is_detected(tmp_path, files, source, name):
    for file, content in files.items():
        (tmp_path / file).write_text(content)

    data = load(str(tmp_path / source))

    assert data.name == name
    assert data.users in (("1",), ("ann",))


def test_a_prefix_forces_the_format(tmp_path):
    path = tmp_path / "export"
    path.write_text("user,item,ts\n1,2,3\n")

    assert load(f"table:{path}").item_ids == (2,)
    with pytest.raises(InvalidData, match="separated by spaces"):
        load(f"sequence-lines:{path}")


def test_columns_of_a_table_can_be_named(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("a,b,c\n1,2,3\n")

    data = load(str(path), user_column="b", item_column="c", time_column="a")

    assert (data.users, data.item_ids) == (("2",), (3,))


def test_naming_columns_of_another_format_is_refused(tmp_path):
    path = tmp_path / "u.data"
    path.write_text(RATINGS["u.data"])

    with pytest.raises(InvalidData, match="table:<path>"):
        load(str(path), user_column="b")


@pytest.mark.parametrize(
    ("content", "received"),
    [
        pytest.param(b"PK\x03\x04rest", "a ZIP archive", id="zip"),
        pytest.param(b"\x1f\x8brest", "a gzip archive", id="gzip"),
        pytest.param(b'{"user": 1, "item": 2}', "JSON", id="JSON"),
        pytest.param(b"lonely\n", "'lonely'", id="one word"),
        pytest.param(b"\x00\x01 \x02 \x03", "x00", id="binary"),
        pytest.param(b"", "none", id="empty"),
    ],
)
def test_an_unknown_file_is_refused_with_a_remedy(tmp_path, content, received):
    path = tmp_path / "log"
    path.write_bytes(content)

    with pytest.raises(InvalidData) as refused:
        load(str(path))

    assert received in refused.value.received
    assert refused.value.remedy


@pytest.mark.parametrize("source", ["", "nowhere.csv", "movielens-100k:nowhere", "synthetic:huge", "table:"])
def test_a_source_that_names_nothing_is_refused(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InvalidData) as refused:
        load(source)

    assert refused.value.remedy


@pytest.mark.parametrize("source", ["", " ", "table:", "sequence-lines: "])
def test_an_empty_path_is_not_the_only_file_that_happens_to_lie_here(tmp_path, monkeypatch, source):
    (tmp_path / "unrelated.csv").write_text("user,item,ts\n1,2,3\n")
    monkeypatch.chdir(tmp_path)

    for named in (source, absolute_source(source.strip())):
        with pytest.raises(InvalidData) as refused:
            load(named)

        assert refused.value.received == "an empty path"
        assert "--data" in refused.value.remedy
    assert load(".").users == ("1",)


def test_a_path_that_leads_nowhere_names_the_option(tmp_path):
    with pytest.raises(InvalidData, match=r"nothing at this path.*--data"):
        load(str(tmp_path / "nowhere.csv"))


def test_a_folder_with_several_data_files_is_refused_with_their_names(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("user,item,ts\n1,2,3\n")

    with pytest.raises(InvalidData) as refused:
        load(str(tmp_path))

    assert refused.value.received == "a.csv, b.csv"


def test_the_synthetic_world_needs_neither_torch_nor_polars():
    code = (
        "import sys; from duet.data.loading import load; import duet.data.headroom; load('synthetic:tiny');"
        "print({'torch', 'polars', 'ray', 'fastapi'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")
