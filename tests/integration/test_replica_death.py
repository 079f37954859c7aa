"""Over real HTTP: a replica of a stage dies under load, and no caller meets a fault."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import builder
from app.server import RunningServer, start
from app.settings import AppSettings
from duet.registry import Registry
from tests.published_version import ITEM_IDS, write_version
from tests.waiting import wait_until

pytestmark = pytest.mark.serve

URL = "/v1/models/tiny/parameters"
BODY: dict[str, Any] = {"device": "phone", "sample": list(ITEM_IDS[:4]), "link": "wifi", "budget_ms": 10_000}
USERS = 4
PATIENCE_S = 60


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Version v1, which is pinned, and v2."""
    write_version(tmp_path, version="v1", seed=1)
    registry = Registry(tmp_path)
    registry.activate("tiny", "v1")
    write_version(tmp_path, version="v2", seed=2)
    return registry


@pytest.fixture
def split_server(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """Split placement with two encoders, so that one can die."""
    deployment = builder._deployment

    def of_two(replica: type, name: str, requests: int, **resources: float) -> Any:
        made = deployment(replica, name, requests, **{**resources, "num_cpus": 0.1})
        return made.options(num_replicas=2) if name == "Encoder" else made

    monkeypatch.setattr(builder, "_deployment", of_two)
    settings = AppSettings(models=str(registry.root), placement="split", refresh_s=0.1)
    with start(settings, port=0, num_cpus=2) as running:
        yield running


def encoder_processes() -> list[int]:
    import ray

    actors = ray._private.state.actors().values()
    return [actor["Pid"] for actor in actors if "#Encoder#" in actor["Name"] and actor["State"] == "ALIVE"]


def test_a_replica_may_die_under_load_and_the_next_one_has_what_is_pinned(
    split_server: RunningServer, registry: Registry
) -> None:
    answers: list[httpx.Response] = []
    done = threading.Event()

    def ask_until_done() -> None:
        with httpx.Client(base_url=split_server.url, timeout=30) as client:
            while not done.is_set():
                answers.append(client.post(URL, json=BODY))

    def is_served(version: str) -> bool:
        return bool(answers) and answers[-1].headers.get("duet-model-version") == version

    wait_until(lambda: len(encoder_processes()) == 2, "two encoders run")
    killed, other = encoder_processes()
    users = [threading.Thread(target=ask_until_done) for _ in range(USERS)]
    for user in users:
        user.start()
    try:
        wait_until(lambda: is_served("v1"), "v1 is served")
        # it holds what it has been sent when it dies
        os.kill(killed, signal.SIGSTOP)
        held = len(answers)
        wait_until(lambda: len(answers) > held, "the other one answers")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(set(encoder_processes()) - {killed, other}) == 1, "a new encoder runs")
        registry.activate("tiny", "v2")
        wait_until(lambda: is_served("v2"), "v2 is served")
    finally:
        done.set()
        for user in users:
            user.join(PATIENCE_S)

    refused = [answer for answer in answers if answer.status_code != 200]
    assert {(each.status_code, each.headers.get("retry-after")) for each in refused} <= {(503, "1")}
    # those of at most two batches in flight
    assert len(refused) <= 2 * USERS
