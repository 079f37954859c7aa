"""A binary request comes apart into what was put in, and a damaged one says what is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet.protocol.request_frame import join_request, split_request


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_what_was_joined_comes_apart_again(fields, sample):
    assert split_request(join_request(fields, sample)) == (fields, sample)


def test_the_bytes_are_those_of_the_document():
    assert join_request(b"{}", b"\x01\x02").hex() == "02000000" + "7b7d" + "0102"


@pytest.mark.parametrize(
    ("body", "told"),
    [(b"", "got 0"), (b"\x01\x00\x00", "got 3"), (b"\x03\x00\x00\x00{}", "Expected 3 bytes of JSON, got 2")],
    ids=["empty", "half a length", "half the JSON"],
)
def test_a_body_that_ends_early_is_refused(body, told):
    with pytest.raises(ValueError, match=told):
        split_request(body)
