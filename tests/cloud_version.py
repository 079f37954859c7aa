"""A version whose generator knows more than the device: longer samples than the device model reads, its own items.

Nothing here imports torch at the top: tests of protocol and device run where there is none.
"""

import shutil

import pytest

DEVICE_LENGTH, SAMPLE_LENGTH = 4, 11


@pytest.fixture(scope="session")
def cloud_config(tiny_config):
    """The tiny run with a device that looks at 4 items and a generator that looks at 11, with its own item vectors."""
    from duet.training.config import TrainingConfig

    document = tiny_config.model_dump()
    document["backbone"] |= {"length": DEVICE_LENGTH}
    document["generator"] |= {
        "length": SAMPLE_LENGTH,
        "encoder": "sasrec",
        "encoder_width": 12,
        "weight_decay": 0.05,
        "delta_penalty": 0.1,
    }
    return TrainingConfig.model_validate(document)


@pytest.fixture(scope="session")
def cloud_run(tmp_path_factory, cloud_config, tiny_interactions):
    """The folder of a finished run of two epochs. Do not write into it."""
    from duet.training.loop import train

    folder = tmp_path_factory.mktemp("runs") / "cloud"
    train(cloud_config, tiny_interactions, folder)
    return folder


@pytest.fixture(scope="session")
def cloud_version(tmp_path_factory, cloud_run, tiny_interactions):
    """That run, published with livelier generators so that devices differ. Do not write into it."""
    import torch
    from safetensors.torch import load_file, save_file

    from duet.publishing import publish
    from duet.registry import Registry

    folder = tmp_path_factory.mktemp("cloud")
    run = shutil.copytree(cloud_run, folder / "run")
    torch.manual_seed(0)
    weights = load_file(run / "best.safetensors")
    for name, tensor in weights.items():
        if name.startswith("generator."):
            tensor += 0.15 * torch.randn_like(tensor)
    save_file(weights, run / "best.safetensors")
    return publish(run, tiny_interactions, Registry(folder / "models"), "cloud", version="v1", quality_users=8)
