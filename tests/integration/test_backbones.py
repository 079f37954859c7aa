"""From a run to a device, for every backbone: published, served by the stages, swapped in, it scores as trained."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.composer import Composer
from deployments.encoder import Encoder
from deployments.orders import Answered, Order
from deployments.parameter_generator import ParameterGenerator
from deployments.pipeline import ColocatedPipeline
from duet.device.decoders import run_decoders
from duet.device.runtime import DeviceModel, open_session
from duet.evaluation.representations import EMBEDDINGS, offered_representations
from duet.networks.backbones import BACKBONES
from duet.networks.duet_network import SHARED, Served
from duet.protocol.package import ParameterPackage
from duet.protocol.representation import Dtype, Form
from duet.publishing import publish
from duet.registry import Registry
from duet.training import checkpoint
from duet.training.config import TrainingConfig
from duet.training.loop import train
from duet.training.networks import build_network
from duet.training.ranking import ask
from duet.training.tasks import split_of

pytestmark = pytest.mark.slow

DEVICES = 6
TOLERANCE = {Dtype.FLOAT32: 2e-5, Dtype.FLOAT16: 0.02, Dtype.INT8: 0.15}
OFFERED = (*offered_representations(("factors", "full"), 3), *EMBEDDINGS)


class Published:
    """A short run of one backbone with livelier generators, published, and what its network says of some devices."""

    def __init__(self, backbone, config, interactions, folder):
        document = config.model_dump() | {"optimisation": {"loss": "sampled-softmax", "max_epochs": 1}}
        document["backbone"]["name"] = backbone
        config = TrainingConfig.model_validate(document)
        train(config, interactions, folder / "trained")
        run = shutil.copytree(folder / "trained", folder / "run")
        torch.manual_seed(0)
        weights = load_file(run / "best.safetensors")
        for name, tensor in weights.items():
            if name.startswith("generator."):
                tensor += 0.15 * torch.randn_like(tensor)
        save_file(weights, run / "best.safetensors")
        self.version = publish(run, interactions, Registry(folder / "models"), "m", version="v1", quality_users=8)
        self.network = build_network(config, interactions.item_count).eval()
        checkpoint.load_best(run, self.network)
        split = split_of(config, interactions)
        self.items = ask(split, split.users[:DEVICES], "validation", config.backbone.length).samples
        self.samples = [[interactions.item_ids[item - 1] for item in row if item] for row in self.items]

    def logits(self, served):
        """Score the catalogue with the network, as it was trained, ``[U, N]``."""
        items = torch.from_numpy(self.items)
        positions = torch.arange(len(items)) * items.shape[1] + (items != 0).sum(1) - 1
        with torch.no_grad():
            return self.network.meta.scores(*self.network.condition(items, positions, served)).numpy()

    def decoders(self):
        """What a device that generates for itself runs."""
        return open_session(self.version.path("decoders.onnx").read_bytes(), "m")

    async def serve(self, representation, answer):
        """Answer all devices in one batch."""
        models = self.version.folder.parents[1]
        pipeline = ColocatedPipeline(Encoder(models), ParameterGenerator(models), Composer(models))
        orders = [Order("m", "v1", sample, representation, bytes(8), answer) for sample in self.samples]
        outcomes = await pipeline.run(orders)
        assert all(isinstance(outcome, Answered) for outcome in outcomes), outcomes
        return [outcome.content for outcome in outcomes]


@pytest.fixture(scope="module", params=sorted(BACKBONES))
def published(request, tiny_config, tiny_interactions, tmp_path_factory):
    return Published(request.param, tiny_config, tiny_interactions, tmp_path_factory.mktemp(request.param))


def served_by(representation):
    if representation.form is Form.SHARED:
        return SHARED
    if representation.form is Form.EMBEDDING:
        return Served("factors", 3)
    return Served("full") if representation.form is Form.FULL else Served("factors", representation.rank)


@pytest.mark.parametrize("representation", OFFERED, ids=str)
async def test_a_device_with_its_package_scores_like_the_network(published, representation):
    device = DeviceModel.load(published.version.path("device.onnx"))
    expected, shared = published.logits(served_by(representation)), published.logits(SHARED)

    packages = await published.serve(representation, "package")

    for package, sample, logits, unmoved in zip(packages, published.samples, expected, shared, strict=True):
        if representation.form is Form.EMBEDDING:
            received = ParameterPackage.decode(package, published.version.manifest.layers)
            device.swap(run_decoders(published.decoders(), received))
        else:
            device.swap(ParameterPackage.decode(package, device.table).compose(device.shared))
        np.testing.assert_allclose(device.scores(sample), logits, rtol=0, atol=TOLERANCE[representation.dtype])
        if representation.form is not Form.SHARED:
            assert np.abs(logits - unmoved).max() > 0.02


async def test_a_device_that_gets_a_whole_model_scores_the_same(published):
    (representation,) = [offer for offer in OFFERED if offer.form is Form.COMPOSED and offer.dtype is Dtype.FLOAT32]
    expected = published.logits(served_by(representation))

    models = await published.serve(representation, "onnx")

    for model, sample, logits in zip(models, published.samples, expected, strict=True):
        np.testing.assert_allclose(DeviceModel.load(model).scores(sample), logits, rtol=0, atol=2e-5)


def test_the_version_says_what_it_is(published):
    backbone, manifest = published.network.meta.backbone, published.version.manifest

    assert f"A {type(backbone).__name__} ranker whose" in published.version.path("model_card.md").read_text()
    assert manifest.layers.layers == backbone.dynamic_layers
    assert tuple(record.representation for record in manifest.representations) == OFFERED
    assert manifest.training["configuration"]["backbone"]["name"] == backbone.config.name
