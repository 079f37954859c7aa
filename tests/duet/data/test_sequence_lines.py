"""One line a user: order is that of the line, and bad lines are named."""

import pytest

from duet.data.sequence_lines import load_sequence_lines
from duet.protocol.errors import InvalidData


def test_each_line_is_a_user_and_its_items_in_order(tmp_path):
    path = tmp_path / "Beauty.txt"
    path.write_text("1 30 10 20\n2 10 10\n")

    data = load_sequence_lines(path)

    assert data.name == "beauty"
    assert data.users == ("1", "2")
    assert data.item_ids == (10, 20, 30)
    assert data.sequence(0).tolist() == [3, 1, 2]
    assert data.sequence(1).tolist() == [1, 1]
    assert data.titles is None
    assert data.timestamps is None


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("ann\tb07x b08y\n", id="tab"),
        pytest.param("ann b07x  b08y", id="no newline at the end"),
        pytest.param("\r\nann b07x b08y\r\n\r\n", id="blank lines and Windows line ends"),
        pytest.param("\ufeffann b07x b08y\n", id="byte order mark"),
    ],
)
def test_white_space_and_blank_lines_do_not_matter(tmp_path, content):
    path = tmp_path / "log.txt"
    path.write_bytes(content.encode())

    data = load_sequence_lines(path, name="log")

    assert data.users == ("ann",)
    assert data.item_ids == ("b07x", "b08y")


@pytest.mark.parametrize(
    ("content", "line", "received"),
    [
        pytest.param(b"1 10\n2\n", 2, "'2'", id="user without items"),
        pytest.param(b"1,10,20\n", 1, "'1,10,20'", id="commas"),
        pytest.param(b"1 10\n\n2 10\n1 20\n", 4, "first seen in line 1", id="user twice"),
        pytest.param(b"1 10\n2 caf\xe9\n", 2, "0xe9", id="latin-1"),
        pytest.param(b"1 10\n2 20\x00\n", 2, "0x00", id="NUL"),
        pytest.param(b"", None, "none", id="empty"),
        pytest.param(b"\n  \n", None, "none", id="blank"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path, content, line, received):
    path = tmp_path / "log.txt"
    path.write_bytes(content)

    with pytest.raises(InvalidData) as refused:
        load_sequence_lines(path)

    assert refused.value.path == str(path)
    assert refused.value.line == line
    assert received in refused.value.received
    assert refused.value.remedy


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(InvalidData, match="directory"):
        load_sequence_lines(tmp_path)
    with pytest.raises(InvalidData, match="No such file"):
        load_sequence_lines(tmp_path / "missing.txt")
