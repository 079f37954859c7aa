"""Figures of runs whose answer is known beforehand."""

import math

import pytest

from loadtest.figures import busiest_cpu, knee_of, recovered_after_s, run_figures
from loadtest.shapes import Phase, Role, Shape
from loadtest.slo import check, exit_code, load_objectives
from loadtest.timeline import CPU, LAG, LATENCY, Timeline

STEPS = Shape(
    phases=(
        Phase(name="warm-up", seconds=5, load=0.5, role=Role.WARM_UP),
        Phase(name="half", seconds=10, load=0.5),
        Phase(name="full", seconds=10, load=1.0),
        Phase(name="over", seconds=10, load=1.2),
    )
)
OVERLOAD = Shape(
    phases=(
        Phase(name="before", seconds=10, load=1),
        Phase(name="overload", seconds=10, load=2, role=Role.DISTURBED),
        Phase(name="after", seconds=20, load=1),
    )
)


def timeline(seconds, *, due=100, late=lambda number: 0, lost=lambda number: 0, cpu=0.2, ms=5.0):
    """Every second alike, but for what is late or lost in it."""
    made = Timeline()
    for number in range(seconds):
        second = made.at(number)
        second.counts["due"] += due
        second.counts["outcome/late"] += late(number)
        second.counts["outcome/in-time"] += due - late(number) - lost(number)
        for _ in range(due):
            second.observe(LATENCY, ms)
            second.observe(LAG, 0.3)
        second.gauge(CPU, cpu)
    return made


def test_the_knee_is_the_largest_load_up_to_which_all_was_in_time():
    figures, phases = run_figures(timeline(35, late=lambda n: 40 if n >= 25 else 0), STEPS, ran_s=35)

    assert knee_of(phases).name == "full"
    assert (figures.knee_load, figures.knee_rps) == (1.0, 100)


def test_a_load_that_is_carried_above_one_that_is_not_is_no_knee():
    figures, _ = run_figures(timeline(35, late=lambda n: 40 if 5 <= n < 15 else 0), STEPS, ran_s=35)

    assert math.isnan(figures.knee_rps)


def test_warm_up_is_not_measured_and_what_nobody_answered_is_failed():
    figures, _ = run_figures(timeline(35, late=lambda n: 100 if n < 5 else 0, lost=lambda n: n == 20), STEPS, ran_s=35)

    assert figures.late_share == 0
    assert figures.due == 3000
    assert figures.failed_share == pytest.approx(1 / 3000)


def test_what_is_dropped_counts_wherever_it_happens():
    dropped = timeline(35)
    dropped.at(2).counts["dropped"] += 50
    dropped.at(2).counts["outcome/in-time"] -= 50

    figures, _ = run_figures(dropped, STEPS, ran_s=35)

    assert figures.dropped_share == pytest.approx(50 / 3500)


def test_recovery_counts_from_the_end_of_the_disturbance():
    slow = timeline(40, late=lambda n: 30 if 10 <= n < 27 else 0)

    figures, _ = run_figures(slow, OVERLOAD, ran_s=40)

    assert figures.recovery_s == 7
    assert figures.disturbed_in_time_share == pytest.approx(0.7)
    assert figures.disturbed_goodput_share == pytest.approx(0.7)


def test_one_bad_second_later_on_is_no_recovery_before_it():
    assert recovered_after_s(timeline(40, late=lambda n: 30 if n == 30 else 0), 20, 40) == 11
    assert recovered_after_s(timeline(40, late=lambda n: 30), 20, 40) == math.inf


def test_a_few_late_updates_long_afterwards_are_no_disturbance_any_more():
    assert recovered_after_s(timeline(40, late=lambda n: 30 if n < 22 else 10 if n == 36 else 0), 20, 40) == 2


def test_the_generator_is_judged_by_its_busiest_five_seconds():
    busy = timeline(30, cpu=0.3)
    for number in range(10, 15):
        busy.seconds[number].gauge(CPU, 0.98)

    assert busiest_cpu(busy, range(30)) == pytest.approx(0.98)
    assert busiest_cpu(Timeline(), range(30)) != busiest_cpu(Timeline(), range(30))  # not a number


def checks_of(figures, tmp_path, text, name="mine", *, is_open_loop=True):
    path = tmp_path / "slo.yaml"
    path.write_text(text)
    return check(load_objectives(path, name), figures, is_open_loop=is_open_loop)


SLO = """
generator: {dropped_share: {at_most: 0.001}, cpu_share: {at_most: 0.9}, lag_p99_ms: {at_most: 10}}
default: {in_time_share: {at_least: 0.99}}
mine: {p99_ms: {at_most: 50}, lag_p99_ms: {at_most: 0.2}}
"""


def test_exit_codes_tell_a_missed_objective_from_a_generator_that_was_the_limit(tmp_path):
    good, _ = run_figures(timeline(35), STEPS, ran_s=35)
    late, _ = run_figures(timeline(35, late=lambda n: 50), STEPS, ran_s=35)
    busy, _ = run_figures(timeline(35, cpu=0.97), STEPS, ran_s=35)

    assert exit_code(checks_of(good, tmp_path, SLO, "other")) == 0
    assert exit_code(checks_of(late, tmp_path, SLO, "other")) == 1
    assert exit_code(checks_of(busy, tmp_path, SLO, "other")) == 3


def test_a_run_may_set_its_generator_other_limits(tmp_path):
    good, _ = run_figures(timeline(35), STEPS, ran_s=35)

    rows = {row.figure: row for row in checks_of(good, tmp_path, SLO)}

    assert not rows["lag_p99_ms"].holds
    assert rows["lag_p99_ms"].is_of_generator
    assert rows["cpu_share"].holds
    assert len(rows) == 4


def test_what_was_not_measured_holds_no_limit(tmp_path):
    good, _ = run_figures(timeline(35), STEPS, ran_s=35)

    (row,) = (row for row in checks_of(good, tmp_path, "generator: {}\ndefault: {recovery_s: {at_most: 5}}"))

    assert not row.holds


@pytest.mark.parametrize(
    "text",
    [
        "generator: {}",
        "generator: {}\ndefault: {p98_ms: {at_most: 1}}",
        "generator: {}\ndefault: {p99_ms: {}}",
        "generator: {}\ndefault: {p99_ms: {below: 1}}",
        "default: {p99_ms: {at_most: 1}}",
    ],
)
def test_a_mistake_in_the_objectives_is_told_with_the_file(text, tmp_path):
    path = tmp_path / "slo.yaml"
    path.write_text(text)

    with pytest.raises(ValueError, match=r"slo\.yaml"):
        load_objectives(path, "default")


def test_the_file_has_sound_objectives_for_every_shape():
    from loadtest.shapes import load_shapes
    from loadtest.slo import SLO_FILE

    for name in load_shapes():
        assert {"dropped_share", "cpu_share", "lag_p99_ms", "ran_share"} <= set(
            load_objectives(SLO_FILE, name)["generator"]
        )
