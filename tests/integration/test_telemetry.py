"""A running ``duet serve`` tells what it did: metrics over HTTP, a trace of every request, ``duet top``, JSON logs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from app.commands import app
from app.ports import free_port
from tests.integration.background_server import background_server, duet
from tests.integration.scraped import Values, scraped_until, value
from tests.published_version import ITEM_IDS, write_version

pytestmark = pytest.mark.serve

PATH = "/v1/models/tiny/parameters"
BODY: dict[str, Any] = {"device": "phone", "sample": list(ITEM_IDS[:4]), "link": "wifi", "budget_ms": 10_000}
ANSWERS, REFUSALS = 7, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("telemetry")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """A server that has answered some requests and refused others."""
    write_version(folder / "models", version="v1")
    address = f"http://127.0.0.1:{free_port('127.0.0.1', 0)}"
    port = address.rpartition(":")[2]
    command = duet("serve", "--models", "models", "--port", port, "--cpus", "2", "--log-format", "json")
    traces = ("--trace-file", "traces.jsonl", "--trace-ratio", "1", "--verbose")
    with background_server([*command, *traces], folder, address):
        with httpx.Client(base_url=address, timeout=30) as client:
            *_, first = [client.post(PATH, json=BODY) for _ in range(ANSWERS)]
            held = {"version": first.headers["duet-version"], "tag": first.headers["duet-tag"], "age_s": 1}
            assert client.post(PATH, json=BODY | {"current": held}).status_code == 204
            assert [client.post(PATH, json=BODY | {"sample": []}).status_code for _ in range(REFUSALS)] == [422] * 3
        yield address


def is_counted(values: Values) -> bool:
    return value(values, "refusals_total", model="tiny", reason="invalid_sample") == REFUSALS


def test_the_metrics_count_the_requests_that_were_made(url: str) -> None:
    values = scraped_until(url, is_counted)

    version = {"model": "tiny", "version": "v1"}
    rungs = {rung: value(values, "requests_total", **version, rung=rung) for rung in ("plan", "keep", "refused")}
    assert rungs == {"plan": ANSWERS, "keep": 1, "refused": REFUSALS}
    assert value(values, "plans_total", **version, plan="full-float32") == ANSWERS
    assert value(values, "stage_ms_count", model="tiny", stage="generate") == ANSWERS
    assert value(values, "server_ms_bucket", **version, rung="plan", le="+Inf") == ANSWERS
    assert value(values, "prediction_error_ms_count", **version) == ANSWERS
    assert value(values, "active_version", **version) == 1
    assert value(values, "queue_length") == 0


def test_top_shows_the_same_and_ends(url: str) -> None:
    scraped_until(url, is_counted)

    shown = CliRunner().invoke(app, ["top", "--url", url, "--once"])
    spelt = CliRunner().invoke(app, ["top", "--url", url, "--once", "--json"])

    assert (shown.exit_code, spelt.exit_code) == (0, 0), shown.stderr
    assert "tiny v1" in shown.stdout
    assert "full-float32" in shown.stdout
    document = json.loads(spelt.stdout)
    assert document["versions"] == {"tiny": ["v1"]}
    assert document["requests"] * document["window_s"] == pytest.approx(ANSWERS + 1 + REFUSALS)
    assert 0 < document["server"]["p50"] <= document["server"]["p99"]


def test_every_request_left_a_trace(url: str, folder: Path) -> None:
    scraped_until(url, is_counted)

    spans = [json.loads(line) for line in (folder / "traces.jsonl").read_text(encoding="utf-8").splitlines()]
    requests = [span for span in spans if span["name"] == "request"]
    assert len(requests) == ANSWERS + 1 + REFUSALS
    assert [span["name"] for span in spans[:6]] == ["request", "plan", "queue", "encode", "generate", "compose"]


def test_the_log_is_json_and_tells_refusals_together(url: str, folder: Path) -> None:
    scraped_until(url, is_counted)

    text = (folder / "serve.log").read_text(encoding="utf-8")
    documents = [json.loads(line[line.index("{") :]) for line in text.splitlines() if '"logger"' in line]
    told = [document["refused"]["invalid_sample"] for document in documents if "refused" in document]
    assert sum(told) == REFUSALS
    assert len(told) <= 2
