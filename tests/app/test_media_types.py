"""Content negotiation follows weights and the most specific range."""

import pytest

from app.media_types import media_type_of, negotiate

OFFERED = ("application/vnd.duet.package", "application/json", "application/onnx")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, OFFERED[0]),
        ("", OFFERED[0]),
        ("*/*", OFFERED[0]),
        ("application/*", OFFERED[0]),
        ("application/json", OFFERED[1]),
        ("Application/JSON; charset=utf-8", OFFERED[1]),
        ("text/html, application/onnx;q=0.5", OFFERED[2]),
        ("application/vnd.duet.package;q=0.2, application/json;q=0.9", OFFERED[1]),
        ("*/*, application/vnd.duet.package;q=0", OFFERED[1]),
        ("text/html", None),
        ("application/json;q=0", None),
        ("application/json;q=often", None),
    ],
)
def test_the_best_offered_type_is_chosen(accept: str | None, chosen: str | None) -> None:
    assert negotiate(accept, OFFERED) == chosen


@pytest.mark.parametrize(
    ("header", "media_type"),
    [
        (None, ""),
        ("", ""),
        ("application/json", "application/json"),
        ("Application/Json ;charset=utf-8", "application/json"),
    ],
)
def test_parameters_are_no_part_of_a_media_type(header: str | None, media_type: str) -> None:
    assert media_type_of(header) == media_type
