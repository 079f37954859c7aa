"""A version whose requests carry more than the device model reads: declared, proven, equal to the network."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.composer import Composer
from deployments.encoder import Encoder
from deployments.orders import Order
from deployments.parameter_generator import ParameterGenerator
from deployments.pipeline import ColocatedPipeline
from deployments.version_checks import check_device_model, generator_tensors, shared_parameters
from duet.device.model_cache import install
from duet.device.runtime import DeviceModel, open_session
from duet.networks.duet_network import Served
from duet.protocol.errors import CorruptVersion, NoDeviceModel
from duet.protocol.package import ParameterPackage
from duet.protocol.representation import Dtype, Form, Representation
from duet.protocol.tensor_signature import TensorSignature
from duet.training.networks import build_network
from duet.training.ranking import ask
from duet.training.tasks import split_of
from tests.cloud_version import DEVICE_LENGTH, SAMPLE_LENGTH

pytestmark = pytest.mark.slow

SENT = {
    Served("factors", 3): Representation(Form.FACTORS, Dtype.FLOAT32, 3),
    Served("full"): Representation(Form.FULL, Dtype.FLOAT32),
}


@pytest.fixture(scope="module")
def network(cloud_version, cloud_config, tiny_interactions):
    """The network behind the published version."""
    made = build_network(cloud_config, tiny_interactions.item_count).eval()
    made.load_state_dict(load_file(cloud_version.folder.parents[2] / "run" / "best.safetensors"))
    return made


def shared_of(version):
    return shared_parameters(generator_tensors(version), version.manifest.layers)


def test_a_request_declares_what_is_sent_and_the_device_model_what_it_reads(cloud_version):
    device = DeviceModel.load(cloud_version.path("device.onnx"))

    assert cloud_version.signature().length == SAMPLE_LENGTH
    assert device.signature.length == DEVICE_LENGTH
    assert device.signature.max_items == cloud_version.signature().max_items


def test_golden_samples_stand_there_as_both_read_them(cloud_version):
    golden = load_file(cloud_version.path("golden.safetensors"))

    sent, read = golden["input.items"], golden["device.input.items"]

    assert (sent.shape[1], read.shape[1]) == (SAMPLE_LENGTH, DEVICE_LENGTH)
    assert any((row != 0).sum() > DEVICE_LENGTH for row in sent)
    for row, end in zip(sent, read, strict=True):
        assert end[end != 0].tolist() == row[row != 0][-DEVICE_LENGTH:].tolist()


def test_a_stage_proves_the_device_model_with_the_samples_as_the_device_reads_them(cloud_version):
    check_device_model(cloud_version, shared_of(cloud_version))


def test_a_stage_refuses_a_version_whose_device_samples_are_wrong(cloud_version, tmp_path):
    folder = shutil.copytree(cloud_version.folder, tmp_path / "v1")
    golden = load_file(folder / "golden.safetensors")
    golden["device.input.items"] = golden["device.input.items"] % 7 + 1
    save_file(golden, folder / "golden.safetensors")

    with pytest.raises(CorruptVersion, match="golden scores"):
        check_device_model(replace(cloud_version, folder=folder), shared_of(cloud_version))


async def test_a_device_with_a_package_of_its_longer_sample_scores_like_the_network(
    cloud_version, cloud_config, network, tiny_interactions
):
    models, split = cloud_version.folder.parents[1], split_of(cloud_config, tiny_interactions)
    questions = ask(split, split.users[:6], "validation", SAMPLE_LENGTH)
    samples = [[tiny_interactions.item_ids[item - 1] for item in row if item] for row in questions.samples]
    items = torch.from_numpy(questions.samples)
    newest = torch.arange(len(items)) * SAMPLE_LENGTH + (items != 0).sum(1) - 1
    pipeline = ColocatedPipeline(Encoder(models), ParameterGenerator(models), Composer(models))
    device = DeviceModel.load(cloud_version.path("device.onnx"))

    for served, representation in SENT.items():
        with torch.no_grad():
            expected = network.meta.scores(*network.condition(items, newest, served)).numpy()
            shared = network.meta.scores(*network.condition(items, newest)).numpy()
        orders = [Order("cloud", "v1", sample, representation, bytes(8), "package") for sample in samples]
        outcomes = await pipeline.run(orders)

        for outcome, sample, own, unmoved in zip(outcomes, samples, expected, shared, strict=True):
            device.swap(ParameterPackage.decode(outcome.content, device.table).compose(device.shared))
            np.testing.assert_allclose(device.scores(sample), own, rtol=0, atol=2e-5)
            assert np.abs(own - unmoved).max() > 0.02


def test_items_before_those_that_the_device_reads_change_what_is_generated(cloud_version):
    session = open_session(cloud_version.path("encoder.onnx").read_bytes(), "encoder")
    items = np.arange(1, SAMPLE_LENGTH + 1)[None]
    older = items.copy()
    older[:, 0] = 40

    own, others = (session.run(["embedding"], {"items": sample})[0] for sample in (items, older))

    assert np.abs(own - others).max() > 1e-4


def test_a_device_model_that_reads_another_kind_of_sample_is_refused(cloud_version):
    images = TensorSignature("images", "uint8", (6, 8, 8)).to_json()
    manifest = replace(cloud_version.manifest, signature=images).to_bytes()

    with pytest.raises(NoDeviceModel, match=r"looks at \('items',\)"):
        install("cloud", manifest, cloud_version.path("device.onnx").read_bytes())
