"""When two load generators agree."""

import pytest

from benchmarks.serving.generator import OURS, WRK, Row, compared


def rows(wrk, ours, *, connections=16, cpu_share=0.3):
    return [
        Row(number, name, connections, rate, 1, 2, 3, cpu_share, 30, "0", "1", "a machine", "abc")
        for name, rates in ((WRK, wrk), (OURS, ours))
        for number, rate in enumerate(rates)
    ]


@pytest.mark.parametrize(
    ("wrk", "ours", "agrees"),
    [
        ([1000, 1000], [960, 960], True),
        ([1000, 1000], [940, 940], False),
        ([1000, 1000], [1060, 1060], False),
        ([950, 1000, 1050], [910, 910, 910], True),
        ([800, 1000, 1000], [1000, 1000, 1000], False),
    ],
)
def test_they_agree_to_five_percent_or_to_the_noise_of_wrk_unless_that_is_too_much(wrk, ours, agrees):
    told, found = compared(rows(wrk, ours), 16)

    assert found is agrees
    assert (": PASS." if agrees else ": FAIL.") in told


def test_a_generator_without_processor_time_agrees_with_nobody():
    told, agrees = compared(rows([1000], [1000], cpu_share=0.95), 16)

    assert not agrees
    assert "ours had no processor time left" in told


def test_one_connection_is_not_judged():
    told, agrees = compared(rows([1000], [500], connections=1), 1)

    assert agrees
    assert "not judged" in told
