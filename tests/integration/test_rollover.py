"""Over real HTTP: versions are rolled over under load, and devices move with them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.server import RunningServer, start
from app.settings import AppSettings
from duet.device import DuetDevice
from duet.protocol.package import ParameterPackage
from duet.registry import Registry
from tests.published_version import ITEM_IDS, TABLE, write_version
from tests.waiting import wait_until

pytestmark = pytest.mark.serve

URL = "/v1/models/tiny/parameters"
BODY: dict[str, Any] = {"device": "phone", "sample": list(ITEM_IDS[:4]), "link": "wifi", "budget_ms": 10_000}
ROLLOVERS, USERS = 6, 4


@dataclass
class Load:
    """What became of requests that were sent all the time."""

    failures: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Version v1, which is pinned, and v2."""
    registry = Registry(tmp_path_factory.mktemp("rolled-over"))
    write_version(registry.root, version="v1", seed=1)
    registry.activate("tiny", "v1")
    write_version(registry.root, version="v2", seed=2)
    return registry


@pytest.fixture(scope="module")
def server(registry: Registry) -> Iterator[RunningServer]:
    with start(AppSettings(models=str(registry.root), refresh_s=0.05), port=0, num_cpus=2) as running:
        yield running


async def ask_on(
    client: httpx.AsyncClient, device: str, digests: dict[str, str], load: Load, done: asyncio.Event
) -> None:
    """Ask again and again; hold every answer to its version, in the headers and in the package."""
    while not done.is_set():
        answer = await client.post(URL, json=BODY | {"device": device})
        if answer.status_code != 200:
            load.failures.append(f"{answer.status_code} {answer.text[:200]}")
            continue
        version = answer.headers["duet-model-version"]
        load.versions.append(version)
        package = ParameterPackage.decode(answer.content, TABLE)
        if not package.version.hex() == answer.headers["duet-version"] == digests[version]:
            load.mixed.append(version)


async def roll_over(server: RunningServer, registry: Registry, load: Load) -> None:
    """Activate one version after the other, a new one each time, while users ask."""
    digests = {name: registry.open("tiny", name).digest.hex() for name in ("v1", "v2")}
    done = asyncio.Event()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client, asyncio.TaskGroup() as users:
        for number in range(USERS):
            users.create_task(ask_on(client, f"phone-{number}", digests, load, done))
        for number in range(3, 3 + ROLLOVERS):
            version = f"v{number}"
            digests[version] = write_version(registry.root, version=version, seed=number).digest.hex()
            await asyncio.to_thread(registry.activate, "tiny", version)
            every = [version] * USERS  # every user has been answered by the new version
            await asyncio.to_thread(wait_until, lambda: load.versions[-USERS:] == every, f"{version} is served")  # noqa: B023
        done.set()


def test_rollovers_under_load_fail_nobody_and_mix_nothing(server: RunningServer, registry: Registry) -> None:
    load = Load()

    asyncio.run(roll_over(server, registry, load))

    assert not load.failures
    assert not load.mixed
    assert list(Counter(load.versions)) == ["v1", *(f"v{number}" for number in range(3, 3 + ROLLOVERS))]


def test_devices_follow_a_canary_there_and_back(server: RunningServer, registry: Registry, tmp_path: Path) -> None:
    sample = BODY["sample"]
    registry.activate("tiny", "v1")
    registry.start_canary("tiny", "v2", 50)
    canary = registry.pin("tiny").canary
    names = [f"phone-{number}" for number in range(40)]
    inside = next(name for name in names if canary.takes("tiny", name))
    outside = next(name for name in names if not canary.takes("tiny", name))
    with httpx.Client(base_url=server.url, timeout=30) as client:

        def served(percent: float | None) -> Callable[[], bool]:
            def is_served() -> bool:
                (state,) = client.get("/v1/models/tiny/rollout").json()["gateways"]
                return (state["version"], state["canary"] and state["canary"]["percent"]) == ("v1", percent)

            return is_served

        wait_until(served(50), "the canary is served")
        with (
            DuetDevice(server.url, "tiny", device_id=inside, cache=tmp_path / "inside", budget_ms=10_000) as moved,
            DuetDevice(server.url, "tiny", device_id=outside, cache=tmp_path / "outside", budget_ms=10_000) as stays,
        ):
            first = [moved.update(sample), stays.update(sample)]
            at_first = [moved.manifest.version, stays.manifest.version]
            again = moved.update(sample)
            registry.rollback("tiny")
            wait_until(served(None), "the canary is ended")
            back = moved.update(sample)
            stayed = stays.update(sample)

            # each got the device model of its own version at once, and matching parameters
            assert [(update.status, update.model_replaced, update.attempts) for update in first] == [
                ("updated", False, 1)
            ] * 2
            assert at_first == ["v2", "v1"]
            assert again.status == "kept"
            assert (back.status, back.model_replaced, moved.manifest.version) == ("updated", True, "v1")
            assert stayed.status == "kept"
            assert (moved.model.scores(sample) == stays.model.scores(sample)).all()
