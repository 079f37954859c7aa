"""A tiny world of devices with cameras, a run trained on it and the version published from that run.

Nothing here imports torch at the top: tests of protocol and device run where there is none.
"""

import shutil

import pytest


@pytest.fixture(scope="session")
def digit_devices():
    """40 devices to train on, 20 each to validate and test."""
    from duet.data.digits import load_digit_devices

    return load_digit_devices("digits:tiny")


@pytest.fixture(scope="session")
def digits_config():
    """The smallest run that has everything: both heads, several decoders, dropout."""
    from duet.training.config import TrainingConfig

    return TrainingConfig.model_validate(
        {
            "data": {"source": "digits:tiny"},
            "backbone": {"name": "cnn", "length": 6, "width": 4, "dropout": 0.1},
            "generator": {"embedding_dim": 6, "rank": 3, "heads": ["factors", "full"], "decoders": 2},
            "optimisation": {"batch_size": 32, "learning_rate": 0.01, "max_epochs": 2},
        }
    )


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory, digits_config, digit_devices):
    """The folder of a finished run of two epochs. Do not write into it."""
    from duet.training.loop import train

    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(digits_config, digit_devices, folder)
    return folder


@pytest.fixture(scope="session")
def digits_version(tmp_path_factory, digits_run, digit_devices):
    """That run, published with livelier generators so that devices differ. Do not write into it."""
    import torch
    from safetensors.torch import load_file, save_file

    from duet.publishing import publish
    from duet.registry import Registry

    folder = tmp_path_factory.mktemp("digits")
    run = shutil.copytree(digits_run, folder / "run")
    torch.manual_seed(0)
    weights = load_file(run / "best.safetensors")
    for name, tensor in weights.items():
        if name.startswith("generator."):
            tensor += 0.3 * torch.randn_like(tensor)
    save_file(weights, run / "best.safetensors")
    return publish(run, digit_devices, Registry(folder / "models"), "digits", version="v1", quality_users=8)
