"""The exported graphs compute what the networks compute, and say nothing about the machine that exported them."""

import base64
import getpass
import json
import re
import socket
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from duet.device.runtime import DeviceModel
from duet.networks.duet_network import SHARED, Served
from duet.networks.export import export_device_model, export_encoder, shared_parameters
from duet.protocol.device_model import LAYERS_KEY, SHARED_KEY, SIGNATURE_KEY, VOCABULARY_KEY
from duet.protocol.signature import SequenceSignature, Vocabulary
from tests.duet.networks import lively

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
SIGNATURE = SequenceSignature(lively.LENGTH, 50, "integer")
VOCABULARY = Vocabulary(tuple(range(501, 501 + lively.ITEMS)), tuple(f"Film «{i}»" for i in range(lively.ITEMS)))


@pytest.fixture(scope="module", params=lively.BACKBONE_NAMES)
def network(request):
    return lively.make(backbone=request.param)


@pytest.fixture(scope="module")
def exported(network):
    return {
        "device": export_device_model(network, SIGNATURE, VOCABULARY),
        "encoder": export_encoder(network, SIGNATURE),
    }


@pytest.fixture(scope="module")
def run(exported):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of overridable initializers, which are the point here
    sessions = {
        name: onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for name, data in exported.items()
    }

    def run(name, items, **feed):
        (output,) = sessions[name].run(None, {"items": items.numpy(), **feed})
        return output

    return run


def _newest(items):
    return torch.arange(len(items)) * lively.LENGTH + (items != 0).sum(1) - 1


def _swapped(network, residuals, row):
    """Compose the parameters of one sample as a device does, by input name."""
    feed = {}
    for layer, (weight, bias), residual in zip(
        network.meta.table, shared_parameters(network).values(), residuals, strict=True
    ):
        added = residual.residual[row] if hasattr(residual, "residual") else residual.left[row].T @ residual.right[row]
        feed[f"dyn.{layer.name}.weight"] = weight + added.numpy()
        feed[f"dyn.{layer.name}.bias"] = bias + residual.shift[row].numpy()
    return feed


@pytest.mark.parametrize("length", range(1, lively.LENGTH + 1))
def test_device_graph_with_its_defaults_is_the_shared_network_for_every_length(network, run, length):
    items = lively.samples(length, length, length)

    scores = run("device", items)

    expected = lively.logits(network, items, SHARED, _newest(items)).numpy()
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)


def test_device_graph_takes_batches_of_any_size_and_mixed_lengths(network, run):
    for lengths in [(4,), (1, 7), (3, 1, 7, 5, 2)]:
        items = lively.samples(*lengths)

        scores = run("device", items)

        expected = lively.logits(network, items, SHARED, _newest(items)).numpy()
        np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("served", lively.SERVED[1:], ids=str)
@pytest.mark.parametrize("length", range(1, lively.LENGTH + 1))
def test_swapped_parameters_take_effect(network, run, served, length):
    items = lively.samples(length)
    with torch.no_grad():
        _, residuals = network.condition(items, _newest(items), served)

    scores = run("device", items, **_swapped(network, residuals, 0))

    expected = lively.logits(network, items, served, _newest(items)).numpy()
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)
    assert np.abs(scores - run("device", items)).max() > 100 * TOLERANCE


@pytest.mark.parametrize("length", range(1, lively.LENGTH + 1))
def test_encoder_graph_embeds_the_newest_position_of_every_length(network, run, length):
    items = lively.samples(length, length)

    embeddings = run("encoder", items)

    with torch.no_grad():
        expected = network.embeddings(items).flatten(0, 1)[_newest(items)].numpy()
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=TOLERANCE)


def test_the_device_runtime_opens_the_graph_and_its_metadata_are_complete(network, exported):
    device = DeviceModel.load(exported["device"])

    assert device.table == network.meta.table
    assert device.signature == SIGNATURE
    assert device.vocabulary == VOCABULARY
    for name, arrays in shared_parameters(network).items():
        for array, expected in zip(device.shared[name], arrays, strict=True):
            np.testing.assert_array_equal(array, expected)
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(exported["device"]).metadata_props}
    assert metadata.keys() == {LAYERS_KEY, SIGNATURE_KEY, VOCABULARY_KEY, SHARED_KEY}
    assert json.loads(metadata[VOCABULARY_KEY]) == VOCABULARY.to_json()
    values = sum(layer.outputs * (layer.inputs + 1) for layer in network.meta.table)
    assert len(base64.b64decode(metadata[SHARED_KEY])) == 4 * values


def test_graphs_have_the_inputs_and_outputs_of_the_contract(network, exported):
    def shape(value):
        return [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]

    device, encoder = (onnx.load_from_string(exported[name]).graph for name in ("device", "encoder"))

    assert [(value.name, shape(value)[1:]) for value in device.output] == [("scores", [lively.ITEMS])]
    assert [(value.name, shape(value)[1:]) for value in encoder.output] == [("embedding", [5])]
    assert [value.name for value in encoder.input] == ["items"]
    weights = [f"dyn.{layer.name}.{kind}" for layer in network.meta.table for kind in ("weight", "bias")]
    assert weights[:2] == ["dyn.classifier.0.weight", "dyn.classifier.0.bias"]
    assert [value.name for value in device.input] == ["items", *weights]
    assert set(weights) <= {value.name for value in device.initializer}
    for graph in (device, encoder):
        assert isinstance(shape(graph.input[0])[0], str)
        assert shape(graph.input[0])[1:] == [lively.LENGTH]


@pytest.mark.parametrize("name", ["device", "encoder"])
def test_nothing_of_the_exporting_machine_is_in_the_bytes(exported, name):
    shared = next((e.value for e in onnx.load_from_string(exported[name]).metadata_props if e.key == SHARED_KEY), "")
    data = exported[name].replace(shared.encode(), b"")  # base64 has slashes of its own

    secrets = {str(Path.cwd()), str(Path.home()) + "/", sys.prefix, sys.base_prefix, str(Path(__file__).parents[3])}
    secrets |= {name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4}
    for secret in secrets:
        assert secret.encode() not in data
    for trace in (
        rb"\w\.py\b",
        rb"site-packages",
        rb"Traceback",
        rb"File \"",
        rb"lively",
        rb"namespace",
        rb"/\w+/\w+/",
    ):
        assert re.search(trace, data) is None, trace


def test_the_item_table_is_in_the_device_graph_once(network, exported):
    table = network.meta.backbone.items.weight.detach().numpy()

    assert exported["device"].count(table[1:4].tobytes()) == 1
    assert len(exported["device"]) < 4 * sum(value.numel() for value in network.meta.parameters()) + 20_000


def test_exporting_leaves_the_network_as_it_was(network, exported):
    fresh = lively.make(backbone=network.meta.backbone.config.name)

    for (name, value), expected in zip(network.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


def test_a_network_with_one_head_is_exported_too():
    network = lively.DuetNetwork(lively.BACKBONE, lively.GeneratorSizes(embedding_dim=5, rank=2, heads=("full",)))

    device = DeviceModel.load(export_device_model(network.eval(), SIGNATURE, VOCABULARY))

    sample = [501, 502]
    items = torch.tensor([[1, 2] + [0] * (lively.LENGTH - 2)])
    expected = lively.logits(network, items, Served(), _newest(items))[0].numpy()
    np.testing.assert_allclose(device.scores(sample), expected, rtol=0, atol=TOLERANCE)
