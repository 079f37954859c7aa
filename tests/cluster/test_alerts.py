"""The alert rules: every expression is PromQL, the burn rates are those of the method, and each alert has a case."""

import re
from collections.abc import Iterator

import promql_parser
import pytest
import yaml

from tests.cluster.exported import OF_AGENT, OF_SERVE, exported
from tests.cluster.manifests import CLUSTER
from tests.cluster.queries import Checker, rules, with_recorded

OBJECTIVE = 0.001
PERIOD_H = 30 * 24
HOURS = {"5m": 1 / 12, "30m": 0.5, "1h": 1, "2h": 2, "6h": 6, "1d": 24, "3d": 72}


def test_every_expression_is_promql() -> None:
    for rule in rules("expr"):
        promql_parser.parse(rule["expr"])
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum by (model (rate(x[5m]))")


def test_every_expression_asks_for_what_is_exported_and_names_only_labels_that_it_returns() -> None:
    checker = Checker(with_recorded())
    for rule in rules("alert"):
        labels = checker.labels(rule["expr"])

        told = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert told <= labels, rule["alert"]


def test_every_case_is_made_of_series_as_they_are_exported() -> None:
    cases = yaml.safe_load((CLUSTER / "alerts_test.yaml").read_text(encoding="utf-8"))["tests"]
    for given in (series["series"] for case in cases for series in case["input_series"]):
        name, labels = re.fullmatch(r"(\w+)\{(.*)\}", given).groups()
        written = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        series = exported()[name]
        own = series.labels.keys() - OF_SERVE - OF_AGENT
        # Ray's labels may be left out where a rule does not look at them, ours may not
        assert (own if name.startswith("ray_duet_") else set()) <= written.keys() <= series.labels.keys(), given
        for label, value in written.items():
            assert value in (series.labels[label] or {value}), given


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


def test_every_alert_has_a_case() -> None:
    cases = (CLUSTER / "alerts_test.yaml").read_text(encoding="utf-8")

    tested = set(re.findall(r"alertname:? ?=?\"?(\w+)", cases))
    assert tested == {rule["alert"] for rule in rules("alert")}
