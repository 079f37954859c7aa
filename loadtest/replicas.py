"""How many replicas of each deployment are healthy, by the metrics that the server names in ``/metadata``."""

import json
import re
import urllib.request
from collections import Counter

_HEALTHY = re.compile(r"ray_serve_deployment_replica_healthy\{([^}]*)\} ([0-9.]+)")
_DEPLOYMENT = re.compile(r'deployment="([^"]*)"')
_TIMEOUT_S = 2.0


def count_replicas(host: str) -> dict[str, int]:
    """Count healthy replicas by deployment; empty where the server or its metrics cannot be reached from here."""
    try:
        endpoints = json.loads(_read(f"{host}/metadata"))["metrics"]
        return healthy_replicas([_read(endpoint) for endpoint in endpoints])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def healthy_replicas(texts: list[str]) -> dict[str, int]:
    """Count healthy replicas in what the nodes export, in Prometheus' text format."""
    found: Counter[str] = Counter()
    for text in texts:
        for labels, value in _HEALTHY.findall(text):
            deployment = _DEPLOYMENT.search(labels)
            if deployment is not None:
                found[deployment.group(1)] += float(value) > 0
    return dict(found)


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        body: bytes = answer.read()
    return body.decode()
