"""Writes ``dashboard.json``, which Grafana shows: ``python cluster/dashboard.py``.

The queries ask for what docs/telemetry.md lists, as Ray's agents export it, and for metrics of Ray Serve itself;
``tests/cluster/queries.py`` holds every name, label and value in them to the code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("dashboard.json")
_OF_MODEL = 'model=~"$model"'
_ANSWERED = f'{_OF_MODEL}, rung="plan"'
_OBJECTIVE = 0.001
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3


@dataclass(frozen=True)
class Panel:
    """One graph.

    Attributes:
        title: What it shows.
        queries: PromQL by legend.
        unit: As Grafana calls it.
        most: Where a line is drawn that is not to be crossed upwards.
        least: Where one is drawn that is not to be crossed downwards; values below zero are shown then.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    most: float | None = None
    least: float | None = None


def _rate(series: str, by: str = "", selector: str = _OF_MODEL) -> str:
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate(ray_duet_{series}{{{selector}}}[$__rate_interval]))"


def _quantile(share: float, histogram: str, by: str = "", selector: str = _OF_MODEL) -> str:
    return f"histogram_quantile({share}, {_rate(f'{histogram}_bucket', f'le, {by}' if by else 'le', selector)})"


def _worst(gauge: str) -> str:
    return f"max by (deployment) ({gauge})"


def _sum(gauge: str) -> str:
    return f"sum by (deployment) ({gauge})"


PANELS = (
    Panel("Requests", {"{{rung}}": _rate("requests_total", "rung")}, "reqps"),
    Panel(
        "Budgets missed",
        {"{{model}}": f"{_rate('deadline_misses_total', 'model')} / {_rate('requests_total', 'model')}"},
        "percentunit",
        most=_OBJECTIVE,
    ),
    Panel(
        "Burn rate of the error budget",
        {
            f"{{{{model}}}} {window}": f"model:duet_budget_missed:ratio_rate{window}{{{_OF_MODEL}}} / {_OBJECTIVE}"
            for window in ("5m", "1h", "6h", "3d")
        },
        most=14.4,
    ),
    Panel(
        "Slack: what is left of budgets",
        {
            "{{by}}, median": _quantile(0.5, "budget_slack_ms", "by"),
            "{{by}}, one in twenty has less": _quantile(0.05, "budget_slack_ms", "by"),
        },
        "ms",
        least=0.0,
    ),
    Panel(
        "Server time",
        {f"p{100 * share:g}": _quantile(share, "server_ms", selector=_ANSWERED) for share in (0.5, 0.95, 0.99, 0.999)},
        "ms",
    ),
    Panel("Stages, 95th percentile", {"{{stage}}": _quantile(0.95, "stage_ms", "stage")}, "ms"),
    Panel(
        "Server time, predicted against measured",
        {
            f"{name}, p{100 * share:g}": _quantile(share, histogram, selector=selector)
            for share in (0.5, 0.95)
            for name, histogram, selector in (
                ("predicted", "predicted_server_ms", _OF_MODEL),
                ("measured", "server_ms", _ANSWERED),
            )
        },
        "ms",
    ),
    Panel(
        "Distance of predicted and measured",
        {f"p{100 * share:g}": _quantile(share, "prediction_error_ms") for share in (0.5, 0.95, 0.99)},
        "ms",
        most=5.0,
    ),
    Panel(
        "Predictions off by more than 5 ms and a quarter",
        {"{{model}}": f"{_rate('mispredictions_total', 'model')} / {_rate('prediction_error_ms_count', 'model')}"},
        "percentunit",
        most=0.05,
    ),
    Panel("Plans", {"{{plan}}": _rate("plans_total", "plan")}, "reqps"),
    # who is refused before the model is known has the model "unknown", so these are of all models
    Panel("Refused", {"{{reason}}": _rate("refusals_total", "reason", "")}, "reqps"),
    Panel("Versions served", {"{{model}} {{version}}": _rate("requests_total", "model, version")}, "reqps"),
    Panel(
        "Predicted wait",
        {
            "{{deployment}}": _worst("ray_duet_predicted_wait_ms"),
            "{{deployment}}, for its worker": _worst("ray_duet_stage_predicted_wait_ms"),
        },
        "ms",
        most=25.0,
    ),
    Panel(
        "Queue",
        {
            "{{deployment}}, requests": _sum("ray_duet_queue_length"),
            "{{deployment}}, batches": _sum("ray_duet_stage_queue_length"),
        },
    ),
    Panel(
        "Load of the stages",
        {
            "{{deployment}}": "avg by (deployment) (ray_duet_stage_load_fraction)",
            "{{deployment}}, busy": "avg by (deployment) (ray_duet_stage_busy_fraction)",
        },
        "percentunit",
        most=0.85,
    ),
    Panel("Replicas wanted", {"{{deployment}}": _worst("ray_serve_autoscaling_target_replicas")}),
    Panel("Replicas healthy", {"{{deployment}}": _sum("ray_serve_deployment_replica_healthy")}),
    Panel(
        "Batch size",
        {
            "mean": f"{_rate('batch_size_sum')} / {_rate('batch_size_count')}",
            "p95": _quantile(0.95, "batch_size"),
        },
    ),
)


def dashboard() -> dict[str, Any]:
    """Make the whole document."""
    variables = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {
            "name": "model",
            "label": "Model",
            "type": "query",
            "datasource": _source(),
            "query": {"query": "label_values(ray_duet_requests_total, model)", "refId": "model"},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "current": {"text": "All", "value": "$__all"},
        },
    ]
    return {
        "uid": "duet-serve",
        "title": "DUET Serve",
        "tags": ["duet"],
        "schemaVersion": 39,
        "editable": False,
        "timezone": "utc",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": {"fillOpacity": 8, "showPoints": "never"}}
    if panel.least is None:
        defaults["min"] = 0
    for limit, below, above in ((panel.most, "green", "red"), (panel.least, "red", "green")):
        if limit is not None:
            steps = [{"color": below, "value": None}, {"color": above, "value": limit}]
            defaults["thresholds"] = {"mode": "absolute", "steps": steps}
            defaults["custom"]["thresholdsStyle"] = {"mode": "line"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _source(),
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _source(), "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def written() -> str:
    """Spell the document as the file holds it."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
