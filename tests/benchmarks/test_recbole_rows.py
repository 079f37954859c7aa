"""RecBole gets exactly our split: what is trained, validated and tested here, and nothing else."""

import pytest

from benchmarks.recbole.rows import write_rows
from duet.data.splits import leave_one_out
from duet.data.windows import evaluation_samples
from tests.duet.data.logs import numbered_log

LENGTH = 4


@pytest.fixture
def split():
    return leave_one_out(numbered_log([3, 9, 2, 6, 12]), unseen_share=0.3, seed=1)


def rows_of(path):
    header, *lines = path.read_text().splitlines()
    assert header == "user_id:token\titem_id_list:token_seq\titem_id:token"
    rows = [line.split("\t") for line in lines]
    return [(int(user), [int(item) for item in before.split()], int(item)) for user, before, item in rows]


def test_every_trained_position_is_a_row_with_the_items_before_it(split, tmp_path):
    counts = write_rows(split, LENGTH, tmp_path, name="log")

    rows = rows_of(tmp_path / "log" / "log.train.inter")
    assert len(rows) == counts["train"] == sum(max(0, count - 1) for count in split.train_lengths.tolist())
    # no item occurs twice, so an item names its place
    assert all(before == list(range(item - len(before), item)) for _, before, item in rows)
    assert all(1 <= len(before) <= LENGTH for _, before, _ in rows)
    assert not {user for user, _, _ in rows} & set(split.unseen.tolist())


@pytest.mark.parametrize(("name", "part"), [("valid", "validation"), ("test", "test")])
def test_the_held_out_items_are_ours_with_our_samples(split, tmp_path, name, part):
    write_rows(split, LENGTH, tmp_path, name="log")

    rows = rows_of(tmp_path / "log" / f"log.{name}.inter")
    samples = evaluation_samples(split, split.users, part, LENGTH)
    assert [user for user, _, _ in rows] == split.users.tolist()
    assert [item for _, _, item in rows] == [split.target(int(user), part) for user in split.users]
    assert [before for _, before, _ in rows] == [row[row != 0].tolist() for row in samples]
