"""Reads what a running server exports, as Prometheus would: over HTTP, from the addresses that the server names."""

import re
import threading
import time
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

PATIENCE_S = 60

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped_until(url: str, is_there: Callable[[Values], bool]) -> Values:
    """Scrape until what is waited for has arrived; the last values in any case."""
    deadline, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while True:
        values = scraped(url)
        if is_there(values) or time.monotonic() > deadline:
            return values
        pause.wait(0.5)


def scraped(url: str) -> Values:
    """Read every series of ours, summed over replicas, by name and the labels of docs/telemetry.md."""
    values: Values = {}
    for endpoint in httpx.get(f"{url}/metadata", timeout=30).json()["metrics"]:
        for family in text_string_to_metric_families(httpx.get(endpoint, timeout=30).text):
            for sample in family.samples if family.name.startswith("ray_duet_") else []:
                labels = {name: value for name, value in sample.labels.items() if name in OURS}
                key = (sample.name, frozenset(labels.items()))
                values[key] = values.get(key, 0.0) + sample.value
    return values


def names_until(url: str, wanted: frozenset[str]) -> frozenset[str]:
    """Collect the names of series, of ours and of Ray's, until all that are wanted were there."""
    deadline, pause, seen = time.monotonic() + PATIENCE_S, threading.Event(), set()
    while not wanted <= seen and time.monotonic() < deadline:
        for endpoint in httpx.get(f"{url}/metadata", timeout=30).json()["metrics"]:
            seen |= set(re.findall(r"^(\w+)\{", httpx.get(endpoint, timeout=30).text, re.MULTILINE))
        pause.wait(0.5)
    return frozenset(seen)


OURS = ("model", "version", "rung", "reason", "plan", "stage", "answer", "by", "le")


def value(values: Values, name: str, **labels: str) -> float | None:
    """Find one series by its name without prefix and all of its labels."""
    return values.get((f"ray_duet_{name}", frozenset(labels.items())))
