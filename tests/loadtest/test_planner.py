"""Plans: more devices need no fewer replicas, more time no more of them; and every assumption counts."""

import json
from dataclasses import replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.calibration import CannotPlan, calibrated, load_profiles
from loadtest.plan_text import plan_json, plan_text
from loadtest.planner import ASSUMPTIONS_FILE, Assumptions, Demand, Replica, plan
from loadtest.profiles import NetworkMix, load_mixes

PROFILE = load_profiles()["colocated-cpu"]
MIXES = load_mixes()
USUAL = Demand(50e6, 12, 3, 100, MIXES["mobile"])
# room enough that the budget decides, and no spare one to hide it
BARE = {"most_utilisation": "0.97", "spare_replicas": "0"}


def planned(demand=USUAL, *, knee_rps=None, **changes):
    assumptions = Assumptions.read(changes=changes)
    calibration = replace(calibrated(PROFILE), knee_rps=knee_rps)
    return plan(demand, Replica.of(calibration, PROFILE, assumptions), assumptions)


def test_the_plan_of_the_documentation():
    found = planned()

    assert found.mean_rps == pytest.approx(50e6 * 12 / 86_400 * 1.02)
    assert found.peak_rps == pytest.approx(3 * found.mean_rps)
    # the slowest network of the covered nine tenths is lte
    assert found.server_share_ms == pytest.approx(100 - 70 - (330 + 384) * 8 / 6000 - (1216 + 640) * 8 / 12_000)
    carried = (found.replicas - 1) * found.planned.requests_s
    assert carried == pytest.approx(found.peak_rps)
    assert found.planned.utilisation <= 0.8
    assert found.planned.p99_ms <= found.server_share_ms


@settings(max_examples=25, deadline=None)
@given(
    devices=st.tuples(st.floats(1, 1e9), st.floats(1, 1e9)),
    peaks=st.tuples(st.floats(1, 20), st.floats(1, 20)),
    budgets=st.tuples(st.floats(77, 2000), st.floats(77, 2000)),
)
def test_more_devices_and_higher_peaks_need_no_fewer_and_more_time_no_more(devices, peaks, budgets):
    def replicas(**changes):
        return planned(replace(USUAL, **changes), **BARE).replicas

    for name, values, sign in (("devices", devices, 1), ("peak_factor", peaks, 1), ("budget_ms", budgets, -1)):
        needed = [sign * replicas(**{name: value}) for value in sorted(values)]
        assert needed == sorted(needed), name


def test_a_hundred_million_devices_are_planned_in_proportion():
    few, many = planned(replace(USUAL, devices=1e6)), planned(replace(USUAL, devices=1e8))

    assert many.peak_rps == pytest.approx(100 * few.peak_rps)
    assert 10 < many.replicas < 25
    assert many.egress_bytes_month == pytest.approx(100 * few.egress_bytes_month)


def test_a_tight_budget_is_what_limits_the_load_and_is_held():
    found = planned(replace(USUAL, budget_ms=78), **BARE)

    assert found.limited_by == "the server's share of the budget"
    assert found.planned.p99_ms <= found.server_share_ms * 1.001
    assert found.replicas > planned(**BARE).replicas


def test_a_measured_knee_is_not_gone_beyond():
    found = planned(knee_rps=1000.0)

    assert found.limited_by == "the measured knee"
    assert found.planned.requests_s <= 1000


@pytest.mark.parametrize(
    ("change", "figure", "factor"),
    [
        ({"core_speed": "2"}, "cores", 0.5),
        ({"requests_per_update": "2.04"}, "peak_rps", 2),
        ({"cores_per_replica": "4"}, "cores", 4),
        ({"price_core_hour": "0.08", "price_egress_gb": "0.16"}, "cost_per_million", 2),
        ({"days_per_month": "60.8"}, "cost_month", 2),
        ({"keep_share": "1", "package_bytes": "100000"}, "egress_bytes_s", 640 / 1856),
        ({"package_bytes": "3072"}, "egress_bytes_s", 2),
    ],
)
def test_an_assumption_changes_what_it_is_about(change, figure, factor):
    many = replace(USUAL, devices=5e9, budget_ms=900)

    usual, changed = planned(many), planned(many, **change)

    assert getattr(changed, figure) == pytest.approx(factor * getattr(usual, figure), rel=0.02)


def test_following_the_load_costs_what_the_mean_needs():
    found = planned(replace(USUAL, peak_factor=10, devices=5e9), price_egress_gb="0", spare_replicas="0")

    assert found.cost_per_million_following == pytest.approx(found.cost_per_million / 10, rel=0.01)


def test_networks_are_covered_from_the_fastest_on():
    found = {each.name: each for each in planned(covered_share="0.55").networks}

    assert [name for name, each in found.items() if each.is_covered] == ["wifi", "5g", "fast-4g"]
    assert found["wifi"].in_time_share == 1
    assert found["slow-3g"].in_time_share == 0
    assert found["slow-3g"].left_ms < 0


@pytest.mark.parametrize(
    ("demand", "changes", "told"),
    [
        (replace(USUAL, budget_ms=60), {}, "covered_share=0.30"),
        (replace(USUAL, budget_ms=73), {}, "even nearly idle"),
        (replace(USUAL, mix=NetworkMix({"slow-3g": 1})), {}, "Give a larger --budget-ms.$"),
        (USUAL, {"price": "1"}, "price_core_hour, .* price: Extra"),
        (USUAL, {"keep_share": "often"}, "keep_share: Input should be a valid number"),
        (USUAL, {"in_time_share": "1"}, "in_time_share: Input should be less"),
    ],
)
def test_what_cannot_be_planned_says_what_to_change(demand, changes, told):
    with pytest.raises(CannotPlan, match=told):
        planned(demand, **changes)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"devices": -1}, "devices above 0"), ({"budget_ms": float("nan")}, "budget_ms"), ({"peak_factor": 0.5}, "peak")],
)
def test_an_impossible_demand_is_refused(wrong, told):
    with pytest.raises(CannotPlan, match=told):
        replace(USUAL, **wrong)


def test_a_file_says_what_is_different_and_what_is_typed_goes_first(tmp_path):
    (tmp_path / "mine.yaml").write_text("currency: EUR\nspare_replicas: 5\n")

    found = Assumptions.read(tmp_path / "mine.yaml", {"spare_replicas": "7"})

    assert (found.currency, found.spare_replicas) == ("EUR", 7)
    assert found.price_core_hour == Assumptions.read().price_core_hour


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "colour: red"])
def test_a_file_of_anything_else_is_refused(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)

    with pytest.raises(CannotPlan, match="Expected"):
        Assumptions.read(tmp_path / "mine.yaml")


def test_text_and_json_have_every_assumption_and_the_answer():
    assumptions = Assumptions.read(changes={"price_core_hour": "0.123", "currency": "EUR"})
    replica = Replica.of(calibrated(PROFILE), PROFILE, assumptions)
    found = plan(USUAL, replica, assumptions)

    text = plan_text(found, USUAL, replica, assumptions)
    document = json.loads(json.dumps(plan_json(found, USUAL, replica, assumptions)))

    names = yaml.safe_load(ASSUMPTIONS_FILE.read_text())
    assert not [name for name in names if f"  {name} " not in text]
    assert document["assumptions"].keys() == names.keys()
    assert "0.123" in text
    assert "EUR" in text
    assert PROFILE.record in text
    assert text.splitlines()[0].startswith(
        f"50,000,000 devices, 12 updates a day each, in 100 ms: {found.replicas} repl"
    )
    assert "10% of the devices have networks that alone take longer." in text
    assert document["plan"]["replicas"] == found.replicas
    assert document["measured"]["times"]["capacity_rps"] == pytest.approx(replica.calibration.times.capacity_rps)
