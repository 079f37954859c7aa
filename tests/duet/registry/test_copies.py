"""A copy is another version with the same files."""

import pytest

from duet.protocol.errors import RegistryError
from duet.registry import Registry
from duet.registry.copies import publish_copy
from tests.published_version import write_version


def test_a_copy_has_the_same_files_another_digest_and_says_whose_it_is(tmp_path):
    original = write_version(tmp_path / "models", version="v1", seed=0)

    copy = publish_copy(original, Registry(tmp_path / "elsewhere"), "v2")

    assert copy.manifest.files == original.manifest.files
    assert copy.manifest.representations == original.manifest.representations
    assert copy.digest != original.digest
    assert copy.manifest.training["copy_of"] == "v1"


def test_a_copy_replaces_nothing(tmp_path):
    original = write_version(tmp_path / "models", version="v1", seed=0)

    with pytest.raises(RegistryError):
        publish_copy(original, Registry(tmp_path / "models"), "v1")
