"""docs/telemetry.md lists every metric as the code defines it, asks only for those, and names what can be set."""

import re
from pathlib import Path

from app.settings import AppSettings
from app.tracing import KEPT_A_SECOND
from deployments.metrics import Histogram, Metrics, StageMetrics

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `ray_(duet_\w+)` \| (\w+) \| (\S+) \|(.*?)\| (.+) \|$", re.MULTILINE)


def test_the_table_says_what_the_code_says() -> None:
    documented = [
        (name, kind, unit, tuple(re.findall(r"`(\w+)`", labels)), meaning)
        for name, kind, unit, labels, meaning in ROW.findall(PAGE)
    ]

    metrics = [family.metric for family in (*Metrics().families, *StageMetrics().families)]
    assert documented == [(each.name, each.kind, each.unit, each.labels, each.meaning) for each in metrics]


def test_the_queries_ask_for_series_and_labels_that_exist() -> None:
    known: dict[str, set[str]] = {}
    for family in Metrics().families:
        metric = family.metric
        if isinstance(family, Histogram):
            known |= {f"ray_{metric.name}_bucket": {*metric.labels, "le"}}
            known |= {f"ray_{metric.name}_{suffix}": set(metric.labels) for suffix in ("sum", "count")}
        else:
            known[f"ray_{metric.name}"] = set(metric.labels)
    queries = re.findall(r"^\| [^|]+ \| `(.+)` \|$", PAGE, re.MULTILINE)
    asked = [
        (name, re.findall(r"(\w+)!?=", braces))
        for query in queries
        for name, braces in re.findall(r"(ray_duet_\w+)(\{[^}]*\})?", query)
    ]

    assert len(queries) >= 8
    assert not [name for name, _ in asked if name not in known]
    assert not [(name, label) for name, labels in asked for label in labels if label not in known[name]]


def test_the_settings_and_the_bound_are_those_of_the_code() -> None:
    assert f"(`trace_ratio`, {AppSettings().trace_ratio:.0%} by default)".replace("%", " %") in PAGE
    assert f"At most {KEPT_A_SECOND} requests are kept a second" in PAGE
    assert "`log_format: json`" in PAGE
