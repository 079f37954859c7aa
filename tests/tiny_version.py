"""A tiny world, a run trained on it and the version published from that run, made once for all tests.

Nothing here imports torch at the top: tests of protocol and device run where there is none.
"""

import pytest


@pytest.fixture(scope="session")
def tiny_interactions():
    """120 devices, 60 items; raw ids start at 1001."""
    from duet.data.loading import load

    return load("synthetic:tiny")


@pytest.fixture(scope="session")
def tiny_config():
    """The smallest run that has everything: both heads, several decoders, dropout."""
    from duet.training.config import (
        BackboneOptions,
        DataOptions,
        GeneratorOptions,
        OptimisationOptions,
        TrainingConfig,
    )

    return TrainingConfig(
        data=DataOptions(source="synthetic:tiny", unseen_share=0.1),
        backbone=BackboneOptions(length=8, width=8, blocks=1, heads=2, dropout=0.1),
        generator=GeneratorOptions(embedding_dim=6, rank=3, heads=("factors", "full"), decoders=2, dropout=0.1),
        optimisation=OptimisationOptions(batch_size=128, learning_rate=0.01, max_epochs=2),
    )


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, tiny_config, tiny_interactions):
    """The folder of a finished run of two epochs. Do not write into it."""
    from duet.training.loop import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny_config, tiny_interactions, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_version(tmp_path_factory, tiny_run, tiny_interactions):
    """The published version of ``tiny_run``, in a registry of its own. Do not write into it."""
    from duet.publishing import publish
    from duet.registry import Registry

    return publish(tiny_run, tiny_interactions, Registry(tmp_path_factory.mktemp("models")), "tiny", version="v1")
