"""What Prometheus can ask for: names, kinds, labels and their values, read from the metrics of the code and of Ray."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

from prometheus_client.parser import text_string_to_metric_families

from app.telemetry import Telemetry
from deployments.backlog import Backlog
from deployments.metrics import Metrics, StageMetrics
from deployments.telemetry import Rung
from duet.protocol.errors import DuetError
from tests.app.commands.top.exposition import RAY, Replica
from tests.app.commands.top.exposition import exported as spelt

OPEN = frozenset({"model", "version", "plan", "le"})
"""Labels whose values are those of published versions, or of buckets."""

OF_SERVE = frozenset({"application", "deployment", "replica"})
"""What Ray Serve adds to a metric that a replica makes."""

OF_AGENT = frozenset(re.findall(r"(\w+)=", RAY)) - OF_SERVE
"""What the agent of the node adds; no query asks for it."""


@dataclass(frozen=True)
class Series:
    """One name that can be asked for.

    Attributes:
        kind: ``counter``, ``gauge``, or ``histogram`` for what is cumulative by ``le``.
        labels: With every value that the code can give them; empty where these are not known.
    """

    kind: str
    labels: dict[str, frozenset[str]]


@cache
def exported() -> dict[str, Series]:
    """Every series, by its name as Prometheus scrapes it."""
    kinds, labels = _kinds(), {}
    for family in text_string_to_metric_families(_exposition()):
        for sample in family.samples:
            if sample.name in kinds:
                values = labels.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    values.setdefault(label, set()).add(value)
    assert labels.keys() == kinds.keys(), "every metric is to be recorded below"
    unknown = OPEN | OF_SERVE | OF_AGENT
    ours = {
        name: Series(
            kinds[name],
            {label: frozenset(() if label in unknown else values) for label, values in by_label.items()},
        )
        for name, by_label in labels.items()
    }
    return ours | {f"ray_{name}": of_ray(name) for name in OF_RAY}


def _kinds() -> dict[str, str]:
    found: dict[str, str] = {}
    for family in (*Metrics().families, *StageMetrics().families):
        name, kind = f"ray_{family.metric.name}", family.metric.kind
        if kind == "histogram":
            found |= {f"{name}_bucket": kind, f"{name}_sum": "counter", f"{name}_count": "counter"}
        else:
            found[name] = kind
    return found


def _exposition() -> str:
    """Record one of everything, and export it."""
    gateway, telemetry = Replica(), Telemetry()
    gateway.metrics = telemetry.metrics
    fates = {
        "plan": {},
        "keep": {"is_kept": True, "batch_size": 0, "plan": ""},
        "shared": {"batch_size": 0, "plan": "shared"},
        "refused": {"reason": "deadline_exceeded"},
    }
    assert fates.keys() == set(get_args(Rung))
    for fields in fates.values():
        gateway.answer(**fields)
    gateway.answer(server_ms=70.0)  # late, and not as predicted
    for code in (*_codes(DuetError), "cancelled", "internal_error"):
        gateway.answer(reason=code)
    gateway.metrics.batch_size.observe("demo", value=4)
    telemetry.look(SimpleNamespace(queue_length=1, predicted_wait_ms=1.0, active_versions={"demo": "v1"}))
    stage = spelt(StageMetrics().reported(Backlog().report()), "Encoder", "b1")
    return gateway.text(1000.0) + "\n".join(stage) + "\n"


def _codes(kind: type[DuetError]) -> Iterator[str]:
    for each in kind.__subclasses__():
        if "code" in vars(each):
            yield each.code
        yield from _codes(each)


OF_RAY = {
    "serve_autoscaling_target_replicas": "ray.serve._private.deployment_state",
    "serve_deployment_replica_healthy": "ray.serve._private.deployment_state",
    "serve_health_check_failures_total": "ray.serve._private.deployment_state",
    "serve_num_scheduling_tasks_in_backoff": "ray.serve._private.request_router.request_router",
}
"""Metrics of Ray Serve that are asked for, and where it makes them."""

AFTER_TROUBLE = frozenset(
    {
        "ray_duet_deadline_misses_total",
        "ray_duet_mispredictions_total",
        "ray_serve_health_check_failures_total",
        "ray_serve_num_scheduling_tasks_in_backoff",
    }
)
"""What a server exports only when something goes wrong."""


def of_ray(name: str) -> Series:
    """Read kind and labels of a metric in the source of the Ray that is installed.

    Raises:
        LookupError: If it is not made there any more.
    """
    specification = importlib.util.find_spec(OF_RAY[name])
    assert specification is not None
    assert specification.origin is not None
    tree = ast.parse(Path(specification.origin).read_text(encoding="utf-8"))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == name:
            (keys,) = (keyword.value for keyword in call.keywords if keyword.arg == "tag_keys")
            if isinstance(keys, ast.Name):
                keys = _assigned(tree, keys.id)
            if isinstance(keys, ast.IfExp):  # what Ray does unless it is told to have fewer labels
                keys = keys.body
            return Series(
                ast.unparse(call.func).rpartition(".")[2].lower(), dict.fromkeys(ast.literal_eval(keys), frozenset())
            )
    raise LookupError(
        f"Expected {name} in {OF_RAY[name]}, got a Ray that does not make it there. Look for its successor."
    )


def _assigned(tree: ast.AST, name: str) -> ast.expr:
    (value,) = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and any(isinstance(each, ast.Name) and each.id == name for each in node.targets)
    )
    return value
