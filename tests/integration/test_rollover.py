"""Over real HTTP: versions are rolled over under load, and devices move with them."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from app.commands import app
from app.server import RunningServer, start
from app.settings import AppSettings
from duet.device import DuetDevice
from duet.protocol.package import ParameterPackage
from duet.registry import Registry
from tests.published_version import ITEM_IDS, TABLE, write_version
from tests.slow_encoder import encoding_ms, slow_down
from tests.waiting import wait_until

pytestmark = pytest.mark.serve

URL = "/v1/models/tiny/parameters"
BODY: dict[str, Any] = {"device": "phone", "sample": list(ITEM_IDS[:4]), "link": "wifi", "budget_ms": 10_000}
ROLLOVERS, USERS = 6, 4
CANARY_REQUESTS = 20


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
    settings = AppSettings(models=str(registry.root), refresh_s=0.05, canary_min_requests=CANARY_REQUESTS)
    with start(settings, port=0, num_cpus=2) as running:
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


def one_of_each(registry: Registry) -> tuple[str, str]:
    """A device that gets the canary, and one that does not."""
    canary = registry.pin("tiny").canary
    names = [f"phone-{number}" for number in range(40)]
    inside = next(name for name in names if canary.takes("tiny", name))
    return inside, next(name for name in names if not canary.takes("tiny", name))


def serves(client: httpx.Client, percent: float | None) -> Callable[[], bool]:
    """Whether v1 is served, and a canary to that share of the devices."""

    def is_served() -> bool:
        (state,) = client.get("/v1/models/tiny/rollout").json()["gateways"]
        return (state["version"], state["canary"] and state["canary"]["percent"]) == ("v1", percent)

    return is_served


def test_devices_follow_a_canary_there_and_back(server: RunningServer, registry: Registry, tmp_path: Path) -> None:
    sample = BODY["sample"]
    registry.activate("tiny", "v1")
    registry.start_canary("tiny", "v2", 50)
    inside, outside = one_of_each(registry)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        wait_until(serves(client, 50), "the canary is served")
        with (
            DuetDevice(server.url, "tiny", device_id=inside, cache=tmp_path / "inside", budget_ms=10_000) as moved,
            DuetDevice(server.url, "tiny", device_id=outside, cache=tmp_path / "outside", budget_ms=10_000) as stays,
        ):
            first = [moved.update(sample), stays.update(sample)]
            at_first = [moved.manifest.version, stays.manifest.version]
            again = moved.update(sample)
            registry.rollback("tiny")
            wait_until(serves(client, None), "the canary is ended")
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


def test_a_canary_that_misses_its_budgets_is_rolled_back_by_itself(
    server: RunningServer, registry: Registry, tmp_path: Path
) -> None:
    slow = write_version(registry.root, version="slow", spoil=lambda folder: slow_down(folder, steps=200_000))
    # one that waits for a batch of the canary is in time all the same
    budget_ms = 0.7 * encoding_ms(slow.folder)
    registry.activate("tiny", "v1")
    registry.start_canary("tiny", "slow", 50)
    inside, outside = one_of_each(registry)
    with (
        httpx.Client(base_url=server.url, timeout=30) as client,
        DuetDevice(server.url, "tiny", device_id=inside, cache=tmp_path, budget_ms=10_000) as patient,
    ):
        wait_until(serves(client, 50), "the canary is served")
        told: dict[str, list[httpx.Response]] = {inside: [], outside: []}

        def ask_for_both() -> None:
            for device, answers in told.items():
                answers.append(client.post(URL, json=BODY | {"device": device, "budget_ms": budget_ms}))

        def is_ended() -> bool:
            ask_for_both()
            return registry.pin("tiny").canary is None

        def both_get_v1() -> bool:
            ask_for_both()
            return [answers[-1].headers.get("duet-model-version") for answers in told.values()] == ["v1", "v1"]

        ask_for_both()
        patient.update(BODY["sample"], raise_on_error=True)
        of_canary = patient.manifest.version
        wait_until(is_ended, "the canary is ended")
        wait_until(both_get_v1, "both get the old version")
        back = patient.update(BODY["sample"], raise_on_error=True)
        status = CliRunner().invoke(
            app, ["models", "--models", str(registry.root), "status", "tiny", "--url", server.url]
        )

        assert told[inside][0].json()["code"] == "deadline_exceeded"
        assert of_canary == "slow"
        assert (back.status, back.model_replaced, patient.manifest.version) == ("updated", True, "v1")
        pin = registry.pin("tiny")
        assert (pin.version, pin.ended.version) == ("v1", "slow")
        assert " failed or were late, against " in pin.ended.reason
        assert f"slow with 50 %, from {pin.ended.since} to {pin.ended.ended}: {pin.ended.reason}" in status.stdout
        assert re.search(r"^gateway \S+ serves v1$", status.stdout, re.MULTILINE)
