"""Prepared versions are loaded once, kept beside each other, and bounded."""

import threading
from pathlib import Path

import pytest

from deployments.prepared_versions import PreparedVersions
from duet.protocol.errors import CorruptVersion
from duet.registry import PublishedVersion
from tests.published_version import write_version


@pytest.fixture(scope="module")
def five_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    for number in range(1, 6):
        write_version(models, version=f"v{number}", seed=number)
    return models


def test_a_version_is_loaded_when_it_is_first_asked_for_and_only_then(five_versions: Path) -> None:
    loads: list[str] = []

    def load(published: PublishedVersion) -> str:
        loads.append(published.version)
        return published.version

    versions = PreparedVersions(five_versions, load)
    for name in ("v1", "v2", "v1", "v2"):
        assert versions.get("tiny", name) == name

    assert loads == ["v1", "v2"]


def test_threads_that_ask_at_once_share_one_load(five_versions: Path) -> None:
    loads: list[str] = []
    may_load = threading.Event()

    def load(published: PublishedVersion) -> str:
        may_load.wait(10)
        loads.append(published.version)
        return published.version

    versions = PreparedVersions(five_versions, load)
    threads = [threading.Thread(target=versions.get, args=("tiny", "v1")) for _ in range(4)]
    for thread in threads:
        thread.start()
    may_load.set()
    for thread in threads:
        thread.join(10)

    assert loads == ["v1"]


def test_the_four_versions_asked_for_last_are_kept(five_versions: Path) -> None:
    loads: list[str] = []

    def load(published: PublishedVersion) -> str:
        loads.append(published.version)
        return published.version

    versions = PreparedVersions(five_versions, load)
    # v1 is in use all the time, while one version after the other is tried beside it
    for name in ("v1", "v2", "v1", "v3", "v1", "v4", "v1", "v5", "v1", "v3", "v2"):
        versions.get("tiny", name)

    assert loads == ["v1", "v2", "v3", "v4", "v5", "v2"]


def test_a_version_that_was_changed_is_refused(tmp_path: Path) -> None:
    published = write_version(tmp_path)
    with published.path("generator.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")

    with pytest.raises(CorruptVersion):
        PreparedVersions(tmp_path, lambda opened: opened.version).get("tiny", "v1")
