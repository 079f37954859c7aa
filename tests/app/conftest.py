"""A model repository with one tiny version, and a gateway that serves it from stages that compute nothing."""

from pathlib import Path

import pytest

from app.gateway import Gateway
from app.settings import AppSettings
from duet.registry import PublishedVersion
from tests.app.gateway_requests import Stages
from tests.published_version import write_version


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedVersion:
    """Version ``v1`` of model ``tiny``."""
    return write_version(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def models(published: PublishedVersion) -> Path:
    """The repository that holds it."""
    return published.folder.parents[1]


@pytest.fixture
async def stages() -> Stages:
    return Stages()


@pytest.fixture
async def gateway(models: Path, stages: Stages) -> Gateway:
    gateway = Gateway(AppSettings(models=str(models), max_queued=2, max_batch=1), stages)
    await gateway.start()
    await gateway.catalog.stop()
    return gateway
