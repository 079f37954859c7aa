"""A benchmark fails when one of its numbers is not enough, and when it has none."""

import math

import pytest

from benchmarks.serving.verdict import at_least, at_most, conclude


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (at_least("share", 0.999, 0.999), True),
        (at_least("share", 0.9989, 0.999), False),
        (at_least("share", math.nan, 0.999), False),
        (at_most("delay", 20.0, 20.0), True),
        (at_most("delay", 20.1, 20.0), False),
        (at_most("delay", math.nan, 20.0), False),
    ],
)
def test_claims(claim, holds: bool) -> None:
    assert claim.holds == holds
    assert str(claim).startswith("PASS" if holds else "FAIL")


def test_the_conclusion_is_that_of_every_claim(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = at_least("share", 1.0, 0.5), at_most("delay", 2.0, 1.0)

    conclude([good])
    with pytest.raises(SystemExit) as ended:
        conclude([good, bad])

    assert ended.value.code == 1
    assert capsys.readouterr().out.splitlines() == [str(good), str(good), str(bad)]


def test_nothing_measured_is_nothing_shown() -> None:
    with pytest.raises(SystemExit):
        conclude([])
