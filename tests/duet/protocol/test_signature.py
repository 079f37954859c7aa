"""Samples: what is accepted, what the encoder gets from it, and what the error says otherwise."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet.protocol.errors import InvalidSample
from duet.protocol.signature import SequenceSignature, Signature, Vocabulary, signature_from_json

SIGNATURE = SequenceSignature(length=4, max_items=10)
VOCABULARY = Vocabulary((10, 20, "film", "30", 40), ("Ten", "Twenty", "A film", "Thirty", "Forty"))


def test_the_sequence_signature_is_a_signature():
    assert isinstance(SIGNATURE, Signature)
    assert SIGNATURE.input_names == tuple(SIGNATURE.arrays([[10]], VOCABULARY))


def test_items_are_left_aligned_oldest_first_and_padded_at_the_end():
    arrays = SIGNATURE.arrays([[10], [40, "film", 20], [10, 20, "film", "30", 40]], VOCABULARY)

    assert arrays["items"].tolist() == [[1, 0, 0, 0], [5, 3, 2, 0], [2, 3, 4, 5]]
    assert arrays["items"].dtype == np.int64


def test_unknown_ids_among_the_last_are_dropped():
    assert SIGNATURE.arrays([[10, 99, "nobody", 20]], VOCABULARY)["items"].tolist() == [[1, 2, 0, 0]]


def test_the_last_ids_count_also_when_they_are_unknown():
    sample = [10, 20, 91, 92, 93, 94]

    SIGNATURE.validate(sample)
    with pytest.raises(InvalidSample, match="known item id among its last 4"):
        SIGNATURE.validate(sample, VOCABULARY)
    with pytest.raises(InvalidSample):
        SIGNATURE.arrays([sample], VOCABULARY)


def test_an_empty_batch_has_no_rows():
    assert SIGNATURE.arrays([], VOCABULARY)["items"].shape == (0, 4)


@pytest.mark.parametrize(
    "sample",
    [
        None,
        7,
        "10",
        {"items": [10]},
        [],
        list(range(11)),
        [10, None],
        [10, True],
        [10, 1.0],
        [float("nan")],
        [[10]],
        [{}],
        [""],
        ["x" * 257],
        ["\ud800"],
        [2**63],
        [-(2**80)],
        [10**4000],
    ],
    ids=lambda sample: f"{sample!r:.20}",
)
def test_what_is_no_sample_is_refused_with_a_remedy(sample):
    for refuse in (SIGNATURE.validate, SIGNATURE.canonical, lambda wrong: SIGNATURE.arrays([wrong], VOCABULARY)):
        with pytest.raises(InvalidSample) as caught:
            refuse(sample)
        assert len(str(caught.value)) < 600
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("item_type", "accepted", "refused"),
    [("string", ["film"], [10]), ("integer", [10], ["10"]), ("any", [10, "film"], [None])],
)
def test_the_item_type_limits_the_ids(item_type, accepted, refused):
    signature = SequenceSignature(length=4, item_type=item_type)

    signature.validate(accepted)
    with pytest.raises(InvalidSample, match="position 0"):
        signature.validate(refused)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(*[st.lists(st.sampled_from([10, 20, "film", "30", 30, "10", 99]), min_size=1, max_size=8)] * 2)
def test_equal_canonical_bytes_lead_to_equal_arrays(first, second):
    def items(sample):
        known = [place for place in map(VOCABULARY.index, sample[-4:]) if place is not None]
        return SIGNATURE.arrays([sample], VOCABULARY)["items"].tolist() if known else None

    assert SIGNATURE.canonical(first) == SIGNATURE.canonical(first[-4:])
    if SIGNATURE.canonical(first) == SIGNATURE.canonical(second):
        assert items(first) == items(second)


def test_canonical_bytes_are_the_json_of_what_counts():
    assert SIGNATURE.canonical([1, 2, "café", 3, 4]) == '[2,"café",3,4]'.encode()


def test_seen_lists_every_known_place_of_the_whole_sample():
    assert SIGNATURE.seen([40, 10, 99, 10, 20, "film", 91], VOCABULARY) == (0, 1, 2, 4)


def test_a_signature_is_read_back_from_its_json():
    value = json.loads(json.dumps(SIGNATURE.to_json()))

    assert value == {"kind": "sequence", "length": 4, "max_items": 10, "item_type": "any"}
    assert signature_from_json(value) == SIGNATURE


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "images"},
        {"kind": None},
        {"kind": []},
        {"length": 0},
        {"length": 11},
        {"length": "4"},
        {"length": True},
        {"max_items": 4.0},
        {"item_type": "float"},
        {"item_type": []},
        {"extra": 1},
    ],
    ids=str,
)
def test_another_signature_is_refused(changes):
    with pytest.raises(ValueError, match="Expected"):
        signature_from_json({**SIGNATURE.to_json(), **changes})


@pytest.mark.parametrize("value", [None, [], "sequence", {}], ids=str)
def test_what_is_no_signature_is_refused(value):
    with pytest.raises(ValueError, match="Expected a signature"):
        signature_from_json(value)


def test_an_integer_and_its_text_name_the_same_id():
    assert VOCABULARY.index(10) == VOCABULARY.index("10") == 0
    assert VOCABULARY.index("30") == VOCABULARY.index(30) == 3
    assert VOCABULARY.index("-5") is None


def test_an_integer_and_its_text_differ_where_the_vocabulary_holds_both():
    vocabulary = Vocabulary((42, "42"))

    assert (vocabulary.index(42), vocabulary.index("42")) == (0, 1)


@pytest.mark.parametrize("text", ["010", " 10", "+10", "1_0", "10.0", "١٠", "-", "", "9" * 5000])
def test_only_the_usual_spelling_of_an_integer_is_its_text(text):
    assert VOCABULARY.index(text) is None


def test_titles_fall_back_to_ids():
    assert VOCABULARY.title(2) == "A film"
    assert Vocabulary((7,)).title(0) == "7"
    assert len(VOCABULARY) == 5


@pytest.mark.parametrize("vocabulary", [VOCABULARY, Vocabulary(("a", 1))], ids=["titled", "untitled"])
def test_a_vocabulary_is_read_back_from_its_json(vocabulary):
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"ids": [1]},
        {"ids": [], "titles": None},
        {"ids": [1, 1], "titles": None},
        {"ids": [True], "titles": None},
        {"ids": [1.5], "titles": None},
        {"ids": [[1]], "titles": None},
        {"ids": ["\ud800"], "titles": None},
        {"ids": "ab", "titles": None},
        {"ids": [1], "titles": "a"},
        {"ids": [1], "titles": []},
        {"ids": [1], "titles": [1]},
        {"ids": [1], "titles": ["\udfff"]},
        {"ids": [1], "titles": None, "more": 1},
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_what_is_no_vocabulary_is_refused(value):
    with pytest.raises(ValueError, match="Expected"):
        Vocabulary.from_json(value)


@pytest.mark.parametrize(
    ("item_type", "sample", "json_form"), [("string", [115], '["115"]'), ("integer", ["115"], "[115]")]
)
def test_an_id_of_the_other_kind_is_refused_with_the_json_form(item_type, sample, json_form):
    signature = SequenceSignature(length=4, item_type=item_type)

    with pytest.raises(InvalidSample) as refused:
        signature.validate(sample)

    assert json_form in refused.value.remedy


def test_an_id_that_is_too_long_is_refused_with_the_limit():
    with pytest.raises(InvalidSample, match="256 characters"):
        SIGNATURE.validate(["x" * 257])
