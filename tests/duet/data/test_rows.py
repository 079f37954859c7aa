"""Ids keep their kind, rows their order, and repeated rows count once."""

import numpy as np

from duet.data.rows import interactions_of_rows


def test_ids_are_integers_when_all_of_a_column_are():
    data = interactions_of_rows("log", ["1", "1"], ["10", "9"], np.array([1, 2]))

    assert data.item_ids == (9, 10)
    assert data.users == ("1",)


def test_one_id_that_is_no_plain_integer_keeps_the_whole_column_text():
    data = interactions_of_rows("log", ["1", "1", "1"], ["10", "9", "007"], np.array([1, 2, 3]))

    assert data.item_ids == ("007", "10", "9")


def test_integers_and_text_are_never_merged_by_leading_zeros():
    data = interactions_of_rows("log", ["1", "1"], ["7", "007"], np.array([1, 2]))

    assert data.item_count == 2


def test_users_are_in_the_order_of_their_ids_whatever_the_order_of_rows():
    data = interactions_of_rows("log", ["10", "9", "10"], ["a", "b", "c"], np.array([2, 1, 1]))

    assert data.users == ("9", "10")
    assert [data.item_ids[item - 1] for item in data.sequence(1)] == ["c", "a"]


def test_equal_times_are_ordered_by_item_id_numerically():
    data = interactions_of_rows("log", ["1"] * 3, ["10", "9", "8"], np.array([5, 5, 4]))

    assert [data.item_ids[item - 1] for item in data.sequence(0)] == [8, 9, 10]


def test_fractions_of_a_second_count_for_the_order():
    data = interactions_of_rows("log", ["1", "1"], ["1", "2"], np.array([5.75, 5.5]))

    assert [data.item_ids[item - 1] for item in data.sequence(0)] == [2, 1]
    assert data.timestamps is not None
    assert data.timestamps.tolist() == [5, 5]


def test_a_repeated_row_counts_once_and_a_repeated_item_at_another_time_twice():
    data = interactions_of_rows("log", ["1"] * 3, ["5", "5", "5"], np.array([1, 1, 2]))

    assert data.items.tolist() == [1, 1]


def test_without_times_the_order_of_rows_and_repeats_stay():
    data = interactions_of_rows("log", ["2", "1", "2"], ["5", "5", "5"])

    assert data.sequence(1).tolist() == [1, 1]
    assert data.timestamps is None


def test_an_item_without_a_title_is_called_by_its_id():
    data = interactions_of_rows("log", ["1", "1"], ["5", "6"], np.array([1, 2]), titles={"5": "Toy Story"})

    assert data.titles == ("Toy Story", "Item 6")
