"""Canonical JSON: one spelling a value, and a reader that lets nothing doubtful through."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duet.protocol.canonical_json import decode_json, encode_json

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(scalars | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(values)
def test_what_is_written_is_read_back(value):
    assert decode_json(encode_json(value)) == value


def test_equal_values_have_one_spelling():
    assert encode_json({"b": 1, "a": ["é"]}) == encode_json({"a": ["é"], "b": 1}) == '{"a":["é"],"b":1}'.encode()


@pytest.mark.parametrize("number", [float("nan"), float("inf")], ids=str)
def test_numbers_without_json_form_are_not_written(number):
    with pytest.raises(ValueError, match="JSON"):
        encode_json([number])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1] 2",
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e999]",
        b'{"a": 1, "a": 2}',
        b"\xff",
        b"\xef\xbb\xbf[]",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 100_000,
        b"1" * 5_000,
    ],
    ids=[
        "empty",
        "truncated",
        "trailing",
        "nan",
        "infinity",
        "minus-infinity",
        "overflowing",
        "repeated-key",
        "not-utf-8",
        "byte-order-mark",
        "deep-list",
        "deep-object",
        "deep-and-truncated",
        "endless-integer",
    ],
)
def test_anything_doubtful_is_one_kind_of_error(data):
    with pytest.raises(ValueError, match=r"."):
        decode_json(data)
