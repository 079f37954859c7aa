"""MovieLens in both layouts: order, ties, titles, and rows that are wrong."""

import pytest

from duet.data.movielens import load_movielens_1m, load_movielens_100k
from duet.protocol.errors import InvalidData

RATINGS_100K = "2\t20\t3\t30\n1\t100\t5\t20\n1\t20\t1\t20\n1\t3\t4\t10\n"
TITLES_100K = "3|Amélie (2001)|01-Jan-2001||http|0\n20|Heat (1995)|||\n100|Se7en (1995)|||\n500|Never seen|||\n"
RATINGS_1M = "1::20::5::978300760\n1::3::3::978302109\n2::20::4::978300000\n"
TITLES_1M = "3::Amélie (2001)::Comedy\n20::Heat (1995)::Action|Crime\n"


def test_movielens_100k_is_sorted_by_time_then_item_id(tmp_path):
    (tmp_path / "u.data").write_text(RATINGS_100K)
    (tmp_path / "u.item").write_bytes(TITLES_100K.encode("latin-1"))

    data = load_movielens_100k(tmp_path / "u.data")

    assert data.users == ("1", "2")
    assert data.item_ids == (3, 20, 100)
    assert data.titles == ("Amélie (2001)", "Heat (1995)", "Se7en (1995)")
    assert data.sequence(0).tolist() == [1, 2, 3]
    assert data.timestamps is not None
    assert data.timestamps.tolist() == [10, 20, 20, 30]


def test_titles_are_optional(tmp_path):
    (tmp_path / "u.data").write_text(RATINGS_100K)

    assert load_movielens_100k(tmp_path).titles is None


def test_movielens_1m_is_read_from_ratings_with_times(tmp_path):
    (tmp_path / "ratings.dat").write_text(RATINGS_1M)
    (tmp_path / "sequences.txt").write_text("1 3 20\n")
    (tmp_path / "movies.dat").write_bytes(TITLES_1M.encode("latin-1"))

    data = load_movielens_1m(tmp_path)

    assert data.name == "movielens-1m"
    assert data.user_count == 2
    assert data.sequence(0).tolist() == [2, 1]
    assert data.titles == ("Amélie (2001)", "Heat (1995)")
    assert data.timestamps is not None


def test_movielens_1m_is_read_from_sequences_with_original_ids(tmp_path):
    (tmp_path / "sequences.txt").write_text("1 20 3\n2 20\n")
    (tmp_path / "movies.dat").write_bytes(TITLES_1M.encode("latin-1"))

    data = load_movielens_1m(tmp_path)

    assert data.item_ids == (3, 20)
    assert data.sequence(0).tolist() == [2, 1]
    assert data.titles == ("Amélie (2001)", "Heat (1995)")
    assert data.timestamps is None


@pytest.mark.parametrize(
    "row",
    [
        pytest.param("1\t100\t5", id="missing field"),
        pytest.param("1\t100\t5\t20\t7", id="extra field"),
        pytest.param("1\tHeat\t5\t20", id="item is text"),
        pytest.param("1\t100\t5\tyesterday", id="time is text"),
        pytest.param("1\t100\t5\t" + "9" * 30, id="time is astronomical"),
        pytest.param("1\t\t5\t20", id="item is empty"),
        pytest.param("", id="blank"),
        pytest.param("1,100,5,20", id="commas"),
    ],
)
def test_a_bad_rating_is_refused_with_its_line(tmp_path, row):
    path = tmp_path / "u.data"
    path.write_text(f"2\t20\t3\t30\n{row}\n1\t3\t4\t10\n")

    with pytest.raises(InvalidData) as refused:
        load_movielens_100k(path)

    assert (refused.value.path, refused.value.line) == (str(path), 2)
    assert row in str(refused.value.received.replace("\\t", "\t"))
    assert "GroupLens" in refused.value.remedy


def test_a_bad_title_row_is_refused_with_its_line(tmp_path):
    (tmp_path / "ratings.dat").write_text(RATINGS_1M)
    (tmp_path / "movies.dat").write_text("3::Heat (1995)::Action\n20,Toy Story\n")

    with pytest.raises(InvalidData) as refused:
        load_movielens_1m(tmp_path)

    assert (refused.value.path, refused.value.line) == (str(tmp_path / "movies.dat"), 2)


def test_a_folder_without_the_file_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "notes.md").write_text("x")

    with pytest.raises(InvalidData, match=r"ratings.dat or sequences.txt, got notes.md"):
        load_movielens_1m(tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "u.data").write_text("")

    with pytest.raises(InvalidData, match="at least one interaction"):
        load_movielens_100k(tmp_path)
