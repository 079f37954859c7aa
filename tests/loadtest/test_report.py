"""What a report says of runs whose answer is known."""

import dataclasses
import json
import math

import pytest
from jinja2 import UndefinedError

from loadtest.figures import Figures, phases_of
from loadtest.plots import OverTime
from loadtest.report import write_report
from loadtest.run import Event, LoadPlan, Run, Saturation
from loadtest.shapes import load_shapes
from loadtest.slo import SLO_FILE
from loadtest.timeline import CPU, LAG, LATENCY, Timeline
from loadtest.words import TOLD

OPTIONS = {"model": "demo", "mix": "mobile", "server_share_ms": "50"}


def made(name, *, late=lambda load: 0, rate=100, cpu=0.3, saturation=None):
    """A run of a shape of the file in which so many of each second are late, by the load."""
    shape, timeline = load_shapes()[name], Timeline()
    for number in range(int(shape.seconds)):
        load = shape.load_at(number + 0.5)
        second, due = timeline.at(number), round(rate * load)
        second.counts.update({"due": due, "outcome/late": late(load), "outcome/in-time": due - late(load)})
        second.counts.update({"answer/plan": due, "plan/factors-r4-int8": due, "rung/plan": due})
        for _ in range(due):
            second.observe(LATENCY, 5 + 100 * max(0, load - 1))
            second.observe(LAG, 0.4)
        second.gauge(CPU, cpu)
    plan = LoadPlan("open", name, shape, rate, saturation)
    return Run(timeline, plan, shape.seconds, "http://cloud", (), OPTIONS)


def written(run, folder):
    result = write_report(folder, run, SLO_FILE)
    return result, (folder / "report.html").read_text(), json.loads((folder / "report.json").read_text())


def test_a_step_run_says_to_which_load_it_is_good(tmp_path):
    result, page, report = written(made("step", late=lambda load: 20 if load > 1 else 0), tmp_path)

    assert result.exit_code == 0
    assert "Carries 100 updates a second with 99 % in time." in page
    assert "good to 100 updates a second" in page
    assert report["figures"]["knee_load"] == 1.0
    assert report["figures"]["recovery_s"] is None  # nothing was disturbed, and JSON has no NaN


def test_a_run_that_carries_nothing_fails_and_says_so(tmp_path):
    result, page, _ = written(made("step", late=lambda load: 20), tmp_path)

    assert result.exit_code == 1
    assert "Not even the smallest load was carried." in page
    assert any("missed: largest load carried, of --rate ≥ 70 %, measured not measured" in line for line in result.lines)


def test_a_generator_at_its_limit_voids_the_headline(tmp_path):
    result, page, report = written(made("step", cpu=0.97), tmp_path)

    assert result.exit_code == report["exit_code"] == 3
    assert "<h1>No result: the load generator was the limit, with 97 % of a core; give it --processes" in page
    assert "Carries" not in page


def test_overload_is_judged_by_its_recovery(tmp_path):
    result, page, report = written(made("overload", late=lambda load: 60 if load > 1 else 0), tmp_path)

    assert result.exit_code == 0
    assert "<h1>Recovered 0 s after the overload; 60 % of the updates in time during the overload." in page
    assert report["figures"]["recovery_s"] == 0
    assert report["figures"]["disturbed_in_time_share"] == pytest.approx(0.6)


def test_what_a_saturation_run_found_is_read_again(tmp_path):
    run = made("step")
    saturating = Run(run.timeline, LoadPlan("saturation", "saturation", run.plan.shape), run.ran_s, "x", (), OPTIONS)

    _, _, report = written(saturating, tmp_path)
    found = Saturation.read(tmp_path / "report.json")

    best = max(phase.figures.goodput_rps for phase in phases_of(run.timeline, run.plan.shape))
    assert found.capacity_rps == pytest.approx(best)
    assert len(found.points) == 5
    assert report["headline"].startswith("Capacity: 120 updates a second in time.")
    written(made("steady"), tmp_path / "steady")
    with pytest.raises(ValueError, match="saturation run"):
        Saturation.read(tmp_path / "steady" / "report.json")


def test_a_report_that_cannot_be_made_leaves_no_part_of_it(tmp_path):
    run = made("steady")
    broken = Run(run.timeline, run.plan, run.ran_s, run.host, (), {"server_share_ms": "50"})

    with pytest.raises(UndefinedError, match="model"):
        write_report(tmp_path / "new", broken, SLO_FILE)

    assert not (tmp_path / "new").exists()


def changed(run, **changes):
    return dataclasses.replace(run, **changes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda run: [second.observe(LAG, 80) for second in run.timeline.seconds.values() for _ in range(20)],
            "80 ms la",
        ),
        (
            lambda run: run.timeline.at(5).counts.update({"due": 500, "dropped": 500}),
            "% of the updates were never sent",
        ),
    ],
)
def test_a_void_run_says_why(change, told, tmp_path):
    run = made("steady")
    change(run)

    result, page, _ = written(run, tmp_path)

    assert result.exit_code == 3
    assert told in page.partition("</h1>")[0]


def test_a_run_that_was_stopped_and_an_event_that_failed_are_reasons(tmp_path):
    run = changed(made("rollover"), ran_s=35.0, events=(Event(30.0, "rollover", 7),))

    _, page, _ = written(run, tmp_path)

    assert "the run was stopped after 50 % of it; event rollover did not work" in page


def test_what_never_recovers_says_so_first(tmp_path):
    _, page, report = written(made("overload", late=lambda load: 30 if load != 0.35 else 0), tmp_path)

    assert "<h1>Not recovered by the end; " in page
    assert report["figures"]["recovery_s"] is None


def test_a_rollover_shows_both_versions_and_its_event(tmp_path):
    run = changed(made("rollover"), events=(Event(30.2, "rollover", 0),))
    for at_s, second in run.timeline.seconds.items():
        second.counts["version/old" if at_s < 31 else "version/new"] += 10

    _, page, _ = written(run, tmp_path)
    _, other, _ = written(made("rollover"), tmp_path / "other")

    assert "in time, before and after the rollover." in page
    assert "<h2>Versions</h2>" in page
    assert "<h2>Versions</h2>" not in other


def test_a_day_is_about_its_updates_and_not_about_a_knee(tmp_path):
    _, page, _ = written(made("compressed-day"), tmp_path)

    assert "<h1>100 % of" in page


def test_replicas_that_are_not_told_of_for_a_while_are_a_gap():
    run = made("steady")
    for at_s in (*range(0, 20, 2), *range(40, 70, 2)):
        run.timeline.at(at_s).gauge("replicas/Gateway", 1)

    lines = OverTime(run, phases_of(run.timeline, run.plan.shape)).replicas().axes[0].get_lines()

    (line,) = (each for each in lines if each.get_label() == "Gateway")
    drawn = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert (drawn[10.0], drawn[23.0], drawn[50.0]) == (1, 1, 1)
    assert math.isnan(drawn[30.0])


def test_objectives_are_in_words_with_units(tmp_path):
    _, page, report = written(made("steady"), tmp_path)

    assert ">p99 from due to the last byte</td>" in page
    assert ">≤ 50 ms</td>" in page
    assert ">≥ 99 %</td>" in page
    assert {row["figure"] for row in report["checks"]} >= {"p99_ms", "in_time_share"}


def test_every_figure_has_words():
    assert list(TOLD) == list(Figures.names())
