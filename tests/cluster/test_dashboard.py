"""The dashboard is what its script writes, and what Grafana can show."""

import json
import re

import pytest

from cluster import dashboard
from deployments.autoscaling import ScalingTargets
from deployments.metrics import HONEST_MS, HONEST_SHARE, Metrics, StageMetrics
from tests.cluster.exported import exported
from tests.cluster.queries import Checker, WrongQueryError, asked, filled_in, with_recorded


def test_the_file_is_what_the_script_writes() -> None:
    assert dashboard.FILE.read_text(encoding="utf-8") == dashboard.written(), "run `python cluster/dashboard.py`"


def test_panels_have_their_own_place_and_number() -> None:
    panels = json.loads(dashboard.written())["panels"]
    cells = {
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    }

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(cells) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels)
    assert all(0 <= x < 24 for x, _ in cells)
    assert all(panel["targets"] for panel in panels)


@pytest.mark.parametrize("panel", dashboard.PANELS, ids=lambda panel: panel.title)
def test_every_query_asks_for_what_is_exported_and_its_legend_for_labels_that_it_returns(
    panel: dashboard.Panel,
) -> None:
    checker = Checker(with_recorded())
    for legend, query in panel.queries.items():
        labels = checker.labels(filled_in(query))

        # every label that tells lines apart, and none that the lines do not have
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) == labels


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("sum(rate(ray_duet_shed_total[1m]))", "Nobody exports ray_duet_shed_total"),
        ("sum(rate(duet_requests_total[1m]))", "Nobody exports duet_requests_total"),
        ("sum by (outcome) (rate(ray_duet_requests_total[1m]))", "outcome"),
        ("histogram_quantile(0.9, sum by (le, stage) (rate(ray_duet_server_ms_bucket[1m])))", "stage"),
        ("histogram_quantile(0.9, sum by (stage) (rate(ray_duet_stage_ms_bucket[1m])))", "le"),
        ('sum(rate(ray_duet_requests_total{outcome="ok"}[1m]))', "no label outcome"),
        ('sum(rate(ray_duet_requests_total{rung="ok"}[1m]))', "no rung ok"),
        ('sum(rate(ray_duet_refusals_total{reason="queue"}[1m]))', "no reason queue"),
        ("sum(rate(ray_duet_queue_length[1m]))", "gauge"),
        ("sum(ray_duet_server_ms_bucket)", "needs a rate"),
        ("max by (model) (ray_duet_predicted_wait_ms)", "model"),
        ("max by (stage) (ray_serve_deployment_replica_healthy)", "stage"),
        ("sum by (model) (rate(ray_duet_plans_total[1m])) / sum(rate(ray_duet_requests_total[1m]))", "both sides"),
    ],
)
def test_a_query_for_what_nobody_exports_is_found(query: str, complaint: str) -> None:
    with pytest.raises(WrongQueryError, match=complaint):
        Checker(with_recorded()).labels(query)


def test_every_metric_is_shown_or_watched_but_for_these() -> None:
    shown = {re.sub("_(bucket|sum|count)$", "", name.removeprefix("ray_")) for name in asked()}
    told = {family.metric.name for family in (*Metrics().families, *StageMetrics().families)}
    assert told - shown == {
        "duet_response_bytes_total",
        "duet_active_version",
        "duet_dropped_traces",
        "duet_start_timestamp_seconds",
    }


def test_lines_are_drawn_where_the_code_has_its_limits() -> None:
    limits = {panel.title: panel.most for panel in dashboard.PANELS}

    assert limits["Distance of predicted and measured"] == HONEST_MS
    assert limits["Load of the stages"] == ScalingTargets(stage_budget_ms=1).most_load
    assert f"off by more than {HONEST_MS:g} ms and a quarter" in " ".join(limits)
    assert HONEST_SHARE == 0.25


def test_queries_choose_the_data_source_and_model_of_the_reader() -> None:
    document = json.loads(dashboard.written())

    variables = {variable["name"]: variable["query"] for variable in document["templating"]["list"]}
    assert variables.keys() == {"datasource", "model"}
    series, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables["model"]["query"]).groups()
    assert label in exported()[series].labels
    assert {target["datasource"]["uid"] for panel in document["panels"] for target in panel["targets"]} == {
        "${datasource}"
    }
