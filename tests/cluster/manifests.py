"""Reads what is in ``cluster/``."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"


@cache
def documents() -> list[dict[str, Any]]:
    """Every manifest that ``kubectl apply -k cluster`` applies, but for what it generates."""
    listed = yaml.safe_load((CLUSTER / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    return [
        document for name in listed for document in yaml.safe_load_all((CLUSTER / name).read_text(encoding="utf-8"))
    ]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] == kind]


def ray_service() -> dict[str, Any]:
    (found,) = of_kind("RayService")
    return found["spec"]


def serve_config() -> dict[str, Any]:
    """The configuration of Serve that is embedded as text."""
    return yaml.safe_load(ray_service()["serveConfigV2"])


def head() -> dict[str, Any]:
    return ray_service()["rayClusterConfig"]["headGroupSpec"]


def worker_groups() -> list[dict[str, Any]]:
    return ray_service()["rayClusterConfig"]["workerGroupSpecs"]


def container(group: dict[str, Any]) -> dict[str, Any]:
    (found,) = group["template"]["spec"]["containers"]
    return found


def rule_groups() -> list[dict[str, Any]]:
    (rules,) = of_kind("PrometheusRule")
    return rules["spec"]["groups"]
