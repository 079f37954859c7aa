"""From closed loops to the times of a replica: what is put in comes out, and what cannot be used says why."""

import csv
import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from loadtest.calibration import (
    CannotPlan,
    OneConnection,
    calibrated,
    calibrated_by_report,
    fitted,
    knee_of_report,
    load_profiles,
)

ROOT = Path(__file__).resolve().parents[2]
BATCH_MS, REQUEST_MS, FIXED_MS, CLIENT_MS = 2.0, 0.5, 0.3, 0.03


def closed_loop_rps(connections, *, requests=20_000):
    """Answers a second of a replica whose client asks again at once, one connection after another.

    Whoever is back first starts a batch alone and the others wait for the next one, so that there are always two.
    """
    due, now_ms, answered = [0.0] * connections, 0.0, 0
    while answered < requests:
        now_ms = max(now_ms, min(due))
        batch = [number for number, each in enumerate(due) if each <= now_ms][:64]
        now_ms += BATCH_MS + REQUEST_MS * len(batch)
        for place, number in enumerate(batch):
            due[number] = now_ms + FIXED_MS + place * CLIENT_MS
        answered += len(batch)
    return 1000 * answered / now_ms


def report(path, *, loops=None, shed=0.0, limit=False, kind="saturation"):
    """The report.json of a saturation run whose only connection took 2 ms, and every tenth time 4 ms."""
    loops = {1: 450.0, 4: 1000.0, 16: 1600.0, 64: 1880.0} if loops is None else loops
    phases, start_s = [], 0
    for users, rate in loops.items():
        figures = {"due": rate * 8, "offered_rps": rate, "in_time_share": 1 - shed * (users > 4), "late_share": 0.0}
        phases.append({"load": users, "role": "measured", "name": f"{users} users", "start_s": start_s, "seconds": 8})
        phases[-1]["figures"] = figures
        start_s += 8
    second = {"counts": {}, "gauges": {}, "histograms": {"latency": {"20": 90, "40": 10}}}
    other = {"counts": {}, "gauges": {}, "histograms": {"latency": {"900": 100}}}
    document = {
        "run": {"shape": "saturation", "host": "http://127.0.0.1:8000"},
        "saturation": {"generator_was_limit": limit} if kind == "saturation" else None,
        "phases": phases,
        "seconds": {str(number): second if number < 8 else other for number in range(start_s)},
        "figures": {"knee_rps": 900.0 if kind == "open" else None},
    }
    path.write_text(json.dumps(document))
    return path


def test_closed_loops_of_known_times_give_those_times():
    loops = {each: closed_loop_rps(each) for each in (4, 16, 64)}

    times, error = fitted(loops, one_ms=BATCH_MS + REQUEST_MS + FIXED_MS, disturbances_ms=(0.0,), max_batch=64)

    assert times.batch_ms == pytest.approx(BATCH_MS, rel=0.05)
    assert times.request_ms == pytest.approx(REQUEST_MS, rel=0.05)
    assert times.fixed_ms == pytest.approx(FIXED_MS, abs=0.15)
    assert error < 0.05


@pytest.mark.parametrize(
    ("loops", "batch_ms", "request_ms"), [({4: 1000, 8: 1000, 16: 1000}, 0, 1), ({4: 400, 8: 800}, 5, 0)]
)
def test_where_nothing_is_shared_or_all_is_one_of_the_times_is_nothing(loops, batch_ms, request_ms):
    times, _ = fitted(loops, one_ms=5.0, disturbances_ms=(0.0,), max_batch=64)

    assert times.batch_ms == pytest.approx(batch_ms, abs=1e-6)
    assert times.request_ms == pytest.approx(request_ms, abs=1e-6)


def test_a_report_gives_times_and_the_disturbances_of_one_connection(tmp_path):
    found = calibrated_by_report(report(tmp_path / "report.json"))

    disturbances = np.array(found.times.disturbances_ms)
    assert disturbances.mean() == pytest.approx(0, abs=1e-9)
    # 2 ms at most times and 4 at a tenth of them, around a mean of 2.2; the other loops' latencies are not among them
    assert np.quantile(disturbances, [0.5, 0.95]) == pytest.approx([-0.2, 1.8], abs=0.01)
    assert found.times.batch_ms + found.times.request_ms + found.times.fixed_ms == pytest.approx(2.2, abs=0.01)
    assert found.measured_rps == 1880
    assert found.knee_rps is None


def test_loops_with_refusals_are_left_out(tmp_path):
    usable = calibrated_by_report(report(tmp_path / "a.json", loops={1: 450.0, 2: 800.0, 4: 1000.0}))

    found = calibrated_by_report(
        report(tmp_path / "b.json", loops={1: 450.0, 2: 800.0, 4: 1000.0, 64: 90_000.0}, shed=0.5)
    )

    assert found.times == usable.times


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "open"}, "Expected the report of a saturation run"),
        ({"limit": True}, "the load generator was"),
        ({"loops": {1: 450.0, 16: 1600.0}}, "at least two numbers of connections"),
        ({"loops": {4: 450.0, 16: 1600.0}}, "Expected one connection for a while"),
        ({"shed": 0.5}, "at least two numbers of connections"),
    ],
)
def test_a_report_that_cannot_be_used_says_what_to_do(options, told, tmp_path):
    with pytest.raises(CannotPlan, match=told):
        calibrated_by_report(report(tmp_path / "report.json", **options))


def test_a_file_that_is_no_report_is_named(tmp_path):
    (tmp_path / "none.json").write_text("{}")
    (tmp_path / "other.txt").write_text("no")

    for name in ("none.json", "other.txt"):
        with pytest.raises(CannotPlan, match=name):
            calibrated_by_report(tmp_path / name)


def test_a_knee_is_read_from_an_open_loop_only(tmp_path):
    assert knee_of_report(report(tmp_path / "open.json", kind="open")) == 900
    with pytest.raises(CannotPlan, match="duet loadtest step"):
        knee_of_report(report(tmp_path / "closed.json"))


def test_quantiles_become_a_distribution_that_has_them_and_the_mean():
    one = OneConnection(mean=0.705, quantiles={0.5: 0.612, 0.95: 1.485, 0.99: 3.695})

    disturbances = np.array(one.disturbances_ms())

    assert disturbances.mean() == pytest.approx(0, abs=1e-9)
    assert np.quantile(disturbances + 0.705, [0.5, 0.95, 0.99]) == pytest.approx([0.612, 1.485, 3.695], rel=0.1)


@pytest.mark.parametrize("name", load_profiles())
def test_a_profile_holds_the_medians_of_its_record(name):
    profile = load_profiles()[name]
    rows = list(csv.DictReader((ROOT / profile.record).read_text().splitlines()))
    ours = [row for row in rows if row["contender"] == "ours" and row["commit"].startswith(profile.commit)]

    median = lambda column, k: statistics.median(  # noqa: E731
        float(row[column]) for row in ours if int(row["connections"]) == k
    )

    assert profile.hardware == ours[0]["hardware"]
    assert {k: round(median("requests_s", k), 1) for k in profile.requests_s} == profile.requests_s
    quantiles = {0.5: "p50_ms", 0.95: "p95_ms", 0.99: "p99_ms"}
    one = profile.one_connection_ms
    assert {share: round(median(column, 1), 3) for share, column in quantiles.items()} == one.quantiles
    assert one.mean == pytest.approx(1000 / profile.requests_s[1], rel=0.001)
    assert calibrated(profile).times.capacity_rps == pytest.approx(max(profile.requests_s.values()), rel=0.05)
