"""Publishes a version again under another name: what a rollover goes to when there is nothing new."""

import shutil

from duet.registry.repository import Registry
from duet.registry.versions import PublishedVersion


def publish_copy(original: PublishedVersion, registry: Registry, name: str) -> PublishedVersion:
    """Publish the files of a version as another one; its manifest says of which it is a copy.

    Args:
        original: The version.
        registry: Where the copy goes; it may be another repository.
        name: Of the copy.

    Raises:
        RegistryError: If there is a version of that name already.
    """
    manifest = original.manifest
    with registry.publish(original.model, name) as pending:
        for file in manifest.files:
            shutil.copyfile(original.path(file), pending.folder / file)
        pending.commit(
            task=manifest.task,
            signature=original.signature(),
            layers=manifest.layers,
            embedding_dim=manifest.embedding_dim,
            rank=manifest.rank,
            heads=manifest.heads,
            representations=manifest.representations,
            training=dict(manifest.training) | {"copy_of": original.version},
        )
    return registry.open(original.model, name)
