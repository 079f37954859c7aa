"""Decoders are published with a version, unless its generator is to stay in the cloud."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from duet.device.runtime import open_session
from duet.networks.export_decoders import export_decoders
from duet.networks.personalized_parameters_generator import split_values
from duet.protocol.representation import Form
from duet.publishing import publish
from duet.registry import Registry

USERS = 12


@pytest.mark.parametrize("head", ["factors", "full"])
def test_decoders_make_what_the_generator_makes_with_the_shared_parameters_added(tiny_version, head):
    table, tensors = tiny_version.manifest.layers, load_file(tiny_version.path("generator.safetensors"))
    z = torch.linspace(-1, 1, tiny_version.manifest.embedding_dim)
    values = (tensors[f"{head}.weight"] @ z + tensors[f"{head}.bias"]).unsqueeze(0)

    decoders = open_session(export_decoders(tensors, table, head, 3), "m")
    names = [each.name for each in decoders.get_outputs()]
    made = dict(zip(names, decoders.run(names, {"embedding": z.numpy()}), strict=True))

    for layer, residual in zip(table, split_values(values, table, head, rank=3, use_rank=3), strict=True):
        weight = residual.left[0].T @ residual.right[0] if head == "factors" else residual.residual[0]
        for role, added in (("weight", weight), ("bias", residual.shift[0])):
            expected = (tensors[f"shared.{layer.name}.{role}"] + added).numpy()
            np.testing.assert_allclose(made.pop(f"dyn.{layer.name}.{role}"), expected, rtol=1e-5, atol=1e-6)
    assert not made


def test_published_decoders_are_those_of_the_largest_factors(tiny_version):
    tensors = load_file(tiny_version.path("generator.safetensors"))

    expected = export_decoders(tensors, tiny_version.manifest.layers, "factors", 3)

    assert tiny_version.path("decoders.onnx").read_bytes() == expected


def test_a_generator_that_is_to_stay_in_the_cloud_is_not_published(tiny_run, tiny_interactions, tmp_path):
    registry = Registry(tmp_path / "models")

    version = publish(tiny_run, tiny_interactions, registry, "m", quality_users=USERS, decoders=False)

    assert "decoders.onnx" not in version.manifest.files
    assert Form.EMBEDDING not in {record.representation.form for record in version.manifest.representations}
