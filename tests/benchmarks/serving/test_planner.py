"""When a prediction counts as right, and when a run says nothing."""

import dataclasses

import pytest

from benchmarks.serving.planner import Row, verdict

ROW = Row(0, 0.7, 1000, 1400, 0.2, 0.3, 0.1, 1, 10, 20, 1, 10, 20, 0.0, 1.0, 0.4, "0", "1", "a machine", "abc")


def rows(*p95s_ms, **changes):
    return [dataclasses.replace(ROW, p95_ms=each, **changes) for each in p95s_ms]


@pytest.mark.parametrize(("measured_ms", "holds"), [(8.1, True), (7.9, False), (13.3, True), (13.4, False)])
def test_a_quarter_is_the_most_that_it_may_be_off(measured_ms, holds):
    told, found = verdict(rows(measured_ms), 0.7)

    assert found is holds
    assert told.endswith("PASS" if holds else "FAIL")


def test_medians_are_compared_of_the_rounds_at_that_load():
    others = [dataclasses.replace(ROW, load=0.5, p95_ms=1000.0)]

    told, holds = verdict([*rows(1.0, 10.0, 90.0), *others], 0.7)

    assert holds
    assert "10.00 ms predicted, 10.00 measured, +0%" in told


@pytest.mark.parametrize("change", [{"cpu_share": 0.95}, {"lag_p99_ms": 11.0}, {"failed_share": 0.01}])
def test_a_run_whose_generator_was_the_limit_says_nothing(change):
    told, holds = verdict(rows(10.0, **change), 0.7)

    assert not holds
    assert "says nothing" in told
