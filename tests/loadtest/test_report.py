"""What a report says of runs whose answer is known."""

import json

import pytest
from jinja2 import UndefinedError

from loadtest.figures import phases_of
from loadtest.report import write_report
from loadtest.run import LoadPlan, Run, Saturation
from loadtest.shapes import load_shapes
from loadtest.slo import SLO_FILE
from loadtest.timeline import CPU, LAG, LATENCY, Timeline

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
    assert any("knee_load" in line for line in result.lines)


def test_a_generator_at_its_limit_voids_the_headline(tmp_path):
    result, page, report = written(made("step", cpu=0.97), tmp_path)

    assert result.exit_code == report["exit_code"] == 3
    assert "<h1>No result" in page
    assert "Carries" not in page


def test_overload_is_judged_by_its_recovery(tmp_path):
    result, _, report = written(made("overload", late=lambda load: 60 if load > 1 else 0), tmp_path)

    assert result.exit_code == 0
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
