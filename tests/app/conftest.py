"""A model repository with one tiny version, shared by the tests of the front door."""

from pathlib import Path

import pytest

from duet.registry import PublishedVersion
from tests.published_version import write_version


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedVersion:
    """Version ``v1`` of model ``tiny``."""
    return write_version(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def models(published: PublishedVersion) -> Path:
    """The repository that holds it."""
    return published.folder.parents[1]
