"""Representations: names that can be read back, and combinations that mean something."""

import pickle

import pytest

from duet.protocol.representation import SHARED, Dtype, Form, Representation

ALL = [
    SHARED,
    *(
        Representation(form, dtype, rank)
        for form in (Form.FACTORS, Form.COMPOSED)
        for dtype in Dtype
        for rank in (1, 255)
    ),
    *(Representation(Form.FULL, dtype) for dtype in Dtype),
    *(Representation(Form.EMBEDDING, dtype) for dtype in (Dtype.FLOAT32, Dtype.FLOAT16)),
]


@pytest.mark.parametrize("representation", ALL, ids=str)
def test_a_name_is_read_back(representation):
    assert Representation.parse(str(representation)) == representation
    assert pickle.loads(pickle.dumps(representation)) == representation


def test_names_are_the_documented_ones():
    names = ["shared", "factors-r4-int8", "full-float16", "composed-r4-float32", "embedding-float16"]

    assert [str(Representation.parse(name)) for name in names] == names


def test_header_numbers_make_the_same_representation_as_the_members():
    assert Representation(1, 3, 4) == Representation(Form.FACTORS, Dtype.INT8, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "dtype", "rank"),
    [
        (Form.SHARED, Dtype.INT8, 0),
        (Form.SHARED, Dtype.FLOAT32, 1),
        (Form.FULL, Dtype.INT8, 4),
        (Form.FACTORS, Dtype.INT8, 0),
        (Form.FACTORS, Dtype.INT8, 256),
        (Form.COMPOSED, Dtype.FLOAT32, 0),
        (Form.EMBEDDING, Dtype.INT8, 0),
        (Form.EMBEDDING, Dtype.FLOAT32, 4),
        (5, Dtype.FLOAT32, 0),
        (Form.FULL, 4, 0),
    ],
)
def test_combinations_without_meaning_are_refused(form, dtype, rank):
    with pytest.raises(ValueError, match=r"."):
        Representation(form, dtype, rank)


@pytest.mark.parametrize(
    "name",
    ["", "SHARED", "shared-float32", "factors-int8", "factors-r0-int8", "factors-r04-int8", "factors-r256-int8",
     "factors-r٤-int8", "full-r4-int8", "full-int4", "composed-float32", "full-int8\n",
     "embedding-int8", "embedding-r4-float32"],
)  # fmt: skip
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"."):
        Representation.parse(name)
