"""Writes ``dashboard.json``, which Grafana shows: ``python cluster/dashboard.py``.

The names of the metrics stand here, once for all panels; ``alerts.yaml`` uses the same ones, and a test compares.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUESTS = "duet_requests_total"
MISSES = "duet_deadline_misses_total"
SERVER_MS = "duet_server_ms"
QUEUE = "duet_queue_length"
WAIT_MS = "duet_predicted_wait_ms"
BATCH = "duet_batch_size"
SHED = "duet_shed_total"
PLANS = "duet_plans_total"
REPLICAS = "ray_serve_autoscaling_target_replicas"
HEALTHY = "ray_serve_deployment_replica_healthy"

FILE = Path(__file__).with_name("dashboard.json")
_OF_MODEL = '{model=~"$model"}'
_OBJECTIVE = 0.001
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3


@dataclass(frozen=True)
class Panel:
    """One graph.

    Attributes:
        title: What it shows.
        queries: PromQL by legend.
        unit: As Grafana calls it.
        limit: Where a red line is drawn.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    limit: float | None = None


def _rate(metric: str, by: str, selector: str = _OF_MODEL) -> str:
    return f"sum by ({by}) (rate({metric}{selector}[$__rate_interval]))"


def _quantile(share: float, by: str) -> str:
    return f"histogram_quantile({share}, sum by (le{by}) (rate({SERVER_MS}_bucket{_OF_MODEL}[$__rate_interval])))"


PANELS = (
    Panel("Requests", {"{{outcome}}": _rate(REQUESTS, "outcome")}, "reqps"),
    Panel(
        "Budgets missed",
        {"{{model}}": f"{_rate(MISSES, 'model')} / {_rate(REQUESTS, 'model')}"},
        "percentunit",
        limit=_OBJECTIVE,
    ),
    Panel(
        "Burn rate of the error budget",
        {
            f"{{{{model}}}} {window}": f"model:duet_budget_missed:ratio_rate{window}{_OF_MODEL} / {_OBJECTIVE}"
            for window in ("5m", "1h", "6h", "3d")
        },
        limit=14.4,
    ),
    Panel("Server time", {f"p{100 * share:g}": _quantile(share, "") for share in (0.5, 0.95, 0.99, 0.999)}, "ms"),
    Panel("Stages, 95th percentile", {"{{stage}}": _quantile(0.95, ", stage")}, "ms"),
    Panel("Versions served", {"{{model}} {{version}}": _rate(REQUESTS, "model, version")}, "reqps"),
    Panel("Predicted wait", {"{{deployment}}": f"max by (deployment) ({WAIT_MS})"}, "ms", limit=25.0),
    Panel("Replicas wanted", {"{{deployment}}": f"max by (deployment) ({REPLICAS})"}),
    Panel("Replicas healthy", {"{{deployment}}": f"sum by (deployment) ({HEALTHY})"}),
    Panel("Queue", {"{{deployment}}": f"sum by (deployment) ({QUEUE})"}),
    Panel(
        "Batch size",
        {
            "mean": f"sum(rate({BATCH}_sum[$__rate_interval])) / sum(rate({BATCH}_count[$__rate_interval]))",
            "p95": f"histogram_quantile(0.95, sum by (le) (rate({BATCH}_bucket[$__rate_interval])))",
        },
    ),
    Panel("Refused", {"{{reason}}": _rate(SHED, "reason", "")}, "reqps"),
    Panel("Plans", {"{{plan}}": _rate(PLANS, "plan", "")}, "reqps"),
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
            "query": {"query": f"label_values({REQUESTS}, model)", "refId": "model"},
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
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}}
    if panel.limit is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.limit}]
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
