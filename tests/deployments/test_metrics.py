"""Requests are added up exactly, by labels that no client chooses, in buckets that resolve a budget of 50 ms."""

from itertools import pairwise

import pytest

from deployments.backlog import Backlog
from deployments.metrics import MS_BOUNDS, Metrics, StageMetrics
from deployments.telemetry import Origin, RequestRecord, StageTimes

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def record(**fields: object) -> RequestRecord:
    """A generated answer in time, or what the fields make of it."""
    known = {
        "model": "demo",
        "version": "v1",
        "plan": "factors-r4-int8",
        "predicted_ms": 4.0,
        "network_ms": 30.0,
        "plan_ms": 0.2,
        "batch_size": 3,
        "times": StageTimes(1.0, 2.0, 3.0, 0.5),
        "content_bytes": 700,
        "server_ms": 7.0,
    }
    return RequestRecord(50.0, Origin("id-of-request", ""), 0.0, **{**known, **fields})


def values_of(*records: RequestRecord) -> Values:
    metrics = Metrics()
    for each in records:
        metrics.finished(each)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in metrics.samples()}


def value(values: Values, name: str, **labels: str) -> float | None:
    return values.get((f"duet_{name}", frozenset(labels.items())))


def test_a_generated_answer_is_counted_with_plan_stages_and_bytes() -> None:
    values = values_of(record(), record())

    assert value(values, "requests_total", model="demo", version="v1", rung="plan") == 2
    assert value(values, "plans_total", model="demo", version="v1", plan="factors-r4-int8") == 2
    assert value(values, "response_bytes_total", model="demo", version="v1") == 1400
    stages = {"plan": 0.4, "queue": 2.0, "encode": 4.0, "generate": 6.0, "compose": 1.0, "hops": 0.6}
    assert {stage: value(values, "stage_ms_sum", model="demo", stage=stage) for stage in stages} == pytest.approx(
        stages
    )
    assert value(values, "server_ms_sum", model="demo", version="v1", rung="plan") == 14


def test_buckets_are_cumulative_and_a_bound_belongs_to_its_own() -> None:
    values = values_of(record(server_ms=5.0), record(server_ms=5.001), record(server_ms=99_999.0))

    counts = {
        bound: value(values, "server_ms_bucket", model="demo", version="v1", rung="plan", le=bound)
        for bound in ("4", "5", "6", "5000", "+Inf")
    }
    assert counts == {"4": 0, "5": 1, "6": 2, "5000": 2, "+Inf": 3}
    assert value(values, "server_ms_count", model="demo", version="v1", rung="plan") == 3


def test_prediction_and_measurement_stand_beside_each_other() -> None:
    values = values_of(record(predicted_ms=4.0, server_ms=7.0))

    assert value(values, "predicted_server_ms_sum", model="demo", version="v1") == 4
    assert value(values, "prediction_error_ms_sum", model="demo", version="v1") == 3
    assert value(values, "budget_slack_ms_sum", model="demo", version="v1", by="predicted") == 16
    assert value(values, "budget_slack_ms_sum", model="demo", version="v1", by="measured") == 13


@pytest.mark.parametrize(
    ("predicted_ms", "server_ms", "is_off"),
    [(4, 9, False), (4, 9.01, True), (76, 100, False), (74, 100, True), (126, 100, True), (0, 5, False)],
)
def test_a_prediction_is_off_beyond_5_ms_and_a_quarter(predicted_ms: float, server_ms: float, is_off: bool) -> None:
    values = values_of(record(predicted_ms=predicted_ms, server_ms=server_ms))

    assert (value(values, "mispredictions_total", model="demo", version="v1") or 0) == is_off


def test_an_answer_that_comes_too_late_is_a_miss_and_its_slack_is_negative() -> None:
    values = values_of(record(server_ms=20.5))

    assert value(values, "deadline_misses_total", model="demo", version="v1", answer="late") == 1
    slack = {"model": "demo", "version": "v1", "by": "measured"}
    assert value(values, "budget_slack_ms_bucket", **slack, le="-5") == 0
    assert value(values, "budget_slack_ms_bucket", **slack, le="0") == 1


def test_a_refusal_is_counted_by_its_reason_and_not_as_an_answer() -> None:
    values = values_of(record(reason="overloaded"), record(reason="deadline_exceeded"))

    assert value(values, "refusals_total", model="demo", reason="overloaded") == 1
    assert value(values, "requests_total", model="demo", version="v1", rung="refused") == 2
    assert value(values, "deadline_misses_total", model="demo", version="v1", answer="none") == 1
    assert not {name for name, _ in values} & {"duet_plans_total", "duet_stage_ms_sum", "duet_response_bytes_total"}


def test_rungs_that_compute_nothing_have_no_stages_and_predict_nothing() -> None:
    kept, shared = record(is_kept=True, batch_size=0, plan=""), record(batch_size=0, plan="shared")

    values = values_of(kept, shared)

    assert value(values, "requests_total", model="demo", version="v1", rung="keep") == 1
    assert value(values, "requests_total", model="demo", version="v1", rung="shared") == 1
    assert value(values, "plans_total", model="demo", version="v1", plan="shared") == 1
    assert not {name for name, _ in values} & {"duet_stage_ms_sum", "duet_prediction_error_ms_sum"}


def test_a_stage_exports_all_that_it_tells_the_autoscaler() -> None:
    metrics, report = StageMetrics(), {**Backlog().report(), "queue_length": 3.0}

    values = {sample.name: sample.value for sample in metrics.reported(report)}

    assert values == {f"duet_stage_{name}": value for name, value in report.items()}
    assert values.keys() == {family.metric.name for family in metrics.families}


def test_what_a_client_calls_a_model_never_becomes_a_label() -> None:
    values = values_of(record(model="", version="", reason="unknown_model"))

    assert value(values, "refusals_total", model="unknown", reason="unknown_model") == 1
    assert {name for _, labels in values for name, _ in labels} <= {"model", "version", "rung", "reason", "le"}


def test_the_buckets_resolve_a_budget_of_50_ms() -> None:
    bounds = [0.0, *(bound for bound in MS_BOUNDS if bound <= 50)]

    assert bounds[-1] == 50
    assert max(upper - lower for lower, upper in pairwise(bounds)) <= 5
    assert list(MS_BOUNDS) == sorted(set(MS_BOUNDS))
