"""The alert rules: every expression is PromQL, the burn rates are those of the method, and each alert has a case."""

import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest

from cluster import dashboard
from tests.cluster.manifests import CLUSTER, rule_groups

OBJECTIVE = 0.001
PERIOD_H = 30 * 24
HOURS = {"5m": 1 / 12, "30m": 0.5, "1h": 1, "2h": 2, "6h": 6, "1d": 24, "3d": 72}


def rules(kind: str) -> list[dict[str, Any]]:
    return [rule for group in rule_groups() for rule in group["rules"] if kind in rule]


def test_every_expression_is_promql() -> None:
    for rule in rules("expr"):
        promql_parser.parse(rule["expr"])
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum by (model (rate(x[5m]))")


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:duet|ray_serve)_[a-z_]+", text))


def test_only_metrics_of_the_one_list_are_used() -> None:
    known = {value for value in vars(dashboard).values() if isinstance(value, str) and metrics_in(value) == {value}}
    used = metrics_in(" ".join(rule["expr"] for rule in rules("expr")))
    shown = metrics_in(" ".join(query for panel in dashboard.PANELS for query in panel.queries.values()))
    router = {"ray_serve_num_scheduling_tasks_in_backoff"}

    assert used - router - {"duet_budget_missed"} <= known
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in shown} - {"duet_budget_missed"} == known


def test_recorded_ratios_are_of_the_window_that_they_are_named_after() -> None:
    for rule in rules("record"):
        (window,) = set(re.findall(r"\[(\w+)\]", rule["expr"]))
        assert rule["record"] == f"model:duet_budget_missed:ratio_rate{window}"


def burns() -> Iterator[tuple[str, str, float, str]]:
    pattern = (
        r"model:duet_budget_missed:ratio_rate(\w+) > ([\d.]+) \* 0.001 "
        r"and model:duet_budget_missed:ratio_rate(\w+) > \2 \* 0.001"
    )
    for rule in rules("alert"):
        if rule["alert"] == "DuetBudgetBurn":
            long, factor, short = re.fullmatch(pattern, rule["expr"]).groups()
            assert rule["labels"]["windows"] == f"{long} and {short}"
            yield long, short, float(factor), rule["labels"]["severity"]


def test_every_alert_stands_for_its_share_of_the_months_budget() -> None:
    spent = {(long, severity): round(factor * HOURS[long] / PERIOD_H, 3) for long, _, factor, severity in burns()}

    # the table of the Site Reliability Workbook, chapter 5
    assert spent == {("1h", "page"): 0.02, ("6h", "page"): 0.05, ("1d", "ticket"): 0.1, ("3d", "ticket"): 0.1}
    assert all(HOURS[short] == pytest.approx(HOURS[long] / 12) for long, short, _, _ in burns())
    recorded = {rule["record"].removeprefix("model:duet_budget_missed:ratio_rate") for rule in rules("record")}
    assert recorded == {window for long, short, _, _ in burns() for window in (long, short)}


def test_every_alert_says_what_it_is_and_how_urgent() -> None:
    for rule in rules("alert"):
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_every_alert_has_a_case_or_is_about_ray_itself() -> None:
    cases = (CLUSTER / "alerts_test.yaml").read_text(encoding="utf-8")

    untested = {rule["alert"] for rule in rules("alert") if rule["alert"] not in cases}
    assert untested == {"DuetReplicaUnhealthy", "DuetRouterBacksOff"}
