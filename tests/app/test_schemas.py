"""Requests are read strictly, and the names in the schema are those of the protocol."""

from typing import get_args

import pytest
from pydantic import ValidationError

from app.schemas import DtypeName, FormName, ParametersRequest, Profile
from duet.protocol.budget import PROFILES, Link
from duet.protocol.representation import Dtype, Form

VALID = {"device": "phone", "sample": [1, 2]}


def read(**fields: object) -> ParametersRequest:
    return ParametersRequest.model_validate(VALID | fields)


def test_names_are_those_of_the_protocol() -> None:
    assert set(get_args(Profile)) == set(PROFILES)
    assert {name.upper() for name in get_args(FormName)} == set(Form.__members__) - {"EMBEDDING"}
    assert {name.upper() for name in get_args(DtypeName)} == set(Dtype.__members__)


def test_a_link_is_a_profile_or_measured() -> None:
    assert read(link="slow-3g").network == PROFILES["slow-3g"]
    assert read(link={"down_kbps": 100, "up_kbps": 50.5, "rtt_ms": 0}).network == Link(100, 50.5, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"device": ""},
        {"device": 7},
        {"device": "x" * 129},
        {"budget_ms": 0},
        {"budget_ms": "200"},
        {"budget_ms": float("nan")},
        {"budget_ms": float("inf")},
        {"budget_ms": 10_001},
        {"budget_ms": True},
        {"link": "carrier-pigeon"},
        {"link": {"down_kbps": 0, "up_kbps": 1, "rtt_ms": 1}},
        {"link": {"down_kbps": 5e-324, "up_kbps": 1, "rtt_ms": 1}},
        {"link": {"down_kbps": 1, "up_kbps": 1e-300, "rtt_ms": 1}},
        {"link": {"down_kbps": 1, "up_kbps": 1.1e9, "rtt_ms": 1}},
        {"link": {"down_kbps": 1, "up_kbps": 1, "rtt_ms": float("nan")}},
        {"link": {"down_kbps": 1, "up_kbps": 1}},
        {"accepts": {"forms": []}},
        {"accepts": {"forms": ("embedding",)}},
        {"accepts": {"decoders": "0" * 31}},
        {"current": {"version": "0" * 31, "tag": "0" * 16}},
        {"current": {"version": "0" * 32, "tag": "G" * 16}},
        {"priority": "urgent"},
        {"budget": 200},
    ],
    ids=str,
)
def test_a_field_that_is_not_as_documented_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        read(**fields)
