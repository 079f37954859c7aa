"""Rivals compute what their papers say, and an update of theirs has as many bytes as it has values."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from duet.device.runtime import DeviceModel
from duet.networks.apg import ApgGenerator, Core
from duet.networks.duet_network import SHARED, DuetNetwork, GeneratorSizes
from duet.networks.dynamic_layer import DynamicLinear, split_rows
from duet.networks.export import export_device_model, shared_parameters
from duet.networks.film import FilmGenerator, ScaleShift
from duet.networks.update_size import Array, update_bytes
from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.representation import Dtype, Form, Representation
from duet.protocol.signature import SequenceSignature, Vocabulary
from tests.duet.networks import lively

ROWS, OUTPUTS, INPUTS = 6, 5, 3
RIVALS = ("film", "concatenated", "apg")


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = DynamicLinear(DynamicLayer("output", OUTPUTS, INPUTS)).double()
    torch.nn.init.normal_(layer.bias)
    return layer


def drawn(*shape, seed=1):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def composed(residual, weight, bias, row):
    """The weight and bias of one row, as a device would hold them."""
    if isinstance(residual, Core):
        return residual.left @ residual.core[row] @ residual.right, bias
    scale = torch.ones_like(bias) if residual.scale is None else 1 + residual.scale[row]
    return scale[:, None] * weight, scale * bias + residual.shift[row]


@pytest.mark.parametrize("candidates", [None, 4], ids=["one input a row", "candidates"])
@pytest.mark.parametrize("kind", ["scale and shift", "shift", "core"])
def test_a_layer_with_what_is_sent_is_the_layer_with_the_weight_that_it_stands_for(layer, kind, candidates):
    residual = {
        "scale and shift": ScaleShift(drawn(ROWS, OUTPUTS), drawn(ROWS, OUTPUTS, seed=2)),
        "shift": ScaleShift(drawn(ROWS, OUTPUTS)),
        "core": Core(drawn(ROWS, 2, 3), drawn(OUTPUTS, 2, seed=2), drawn(3, INPUTS, seed=3)),
    }[kind]
    x = drawn(ROWS, INPUTS, seed=4) if candidates is None else drawn(ROWS, candidates, INPUTS, seed=4)

    y = layer(x, residual)

    for row in range(ROWS):
        weight, bias = composed(residual, layer.weight, layer.bias, row)
        torch.testing.assert_close(y[row], torch.nn.functional.linear(x[row], weight, bias))


def test_a_concatenated_embedding_is_a_wider_first_layer():
    network, items = lively.make("concatenated"), lively.samples(7, 4)
    first, second = network.meta.classifier.layers

    scores = lively.logits(network, items, network.served[0])

    with torch.no_grad():
        states = network.meta.backbone.encode(items).flatten(0, 1)
        beside = torch.cat([states, network.embeddings(items).flatten(0, 1)], dim=1)
        wide = torch.cat([first.weight, network.generator.decoder.weight], dim=1)
        users = second(torch.tanh(torch.nn.functional.linear(beside, wide, first.bias)))
        expected = users @ network.meta.backbone.items.weight[1:].T
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
@pytest.mark.parametrize("name", RIVALS)
def test_a_device_with_the_composed_weights_scores_as_the_network_does(name, backbone):
    network, items = lively.make(name, backbone=backbone), lively.samples(7, 3)
    signature = SequenceSignature(lively.LENGTH, 50, "integer")
    device = DeviceModel.load(export_device_model(network, signature, Vocabulary(tuple(range(1, lively.ITEMS + 1)))))
    newest = torch.arange(len(items)) * lively.LENGTH + (items != 0).sum(1) - 1
    shared = [[torch.from_numpy(array) for array in arrays] for arrays in shared_parameters(network).values()]

    expected = lively.logits(network, items, network.served[0], newest)

    with torch.no_grad():
        _, residuals = network.condition(items, newest, network.served[0])
    for row, sample in enumerate(items):
        held = {}
        for layer, (weight, bias), residual in zip(network.meta.table, shared, residuals, strict=True):
            own = (weight, bias) if residual is None else composed(residual, weight, bias, row)
            held[layer.name] = tuple(value.detach().contiguous().numpy() for value in own)
        device.swap(held)
        scores = device.scores(sample[sample != 0].tolist())
        np.testing.assert_allclose(scores, expected[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
@pytest.mark.parametrize("name", RIVALS)
def test_devices_that_differ_get_different_scores_and_shared_ones_are_static(name, backbone):
    network, items = lively.make(name, backbone=backbone), lively.samples(7, 7)
    items[1, 1:] = items[0, 1:]
    changed = lively.logits(network, items, network.served[0]) - lively.logits(network, items, SHARED)

    first, second = changed.view(2, lively.LENGTH, -1)[:, -1]

    assert not torch.allclose(first, second, atol=1e-4)
    static = lively.fresh("static", backbone=backbone)
    static.load_state_dict({k: v for k, v in network.state_dict().items() if k.startswith("meta.")})
    assert torch.equal(lively.logits(network, items, SHARED), lively.logits(static.eval(), items))


@pytest.mark.parametrize("name", RIVALS)
def test_rows_are_cut_with_what_belongs_to_them(name):
    network, items = lively.make(name), lively.samples(7, 4)
    with torch.no_grad():
        states, residuals = network.condition(items, lively.all_positions(items), network.served[0])
        whole = network.meta.scores(states, residuals)
        sizes = [5, 9]
        parts = zip(torch.split(states, sizes), split_rows(residuals, sizes), strict=True)

        cut = torch.cat([network.meta.scores(*part) for part in parts])

    torch.testing.assert_close(cut, whole)


def test_updates_of_film_and_apg_at_the_papers_sizes():
    sizes = GeneratorSizes(embedding_dim=32)
    table = LayerTable((DynamicLayer("a", 32, 32), DynamicLayer("b", 32, 32)))

    film, apg = FilmGenerator(table, sizes), ApgGenerator(table, sizes)

    # four vectors of 32, two cores of 16 x 16; a header of 64 bytes each
    assert update_bytes(film.update_arrays(), Dtype.FLOAT32) == 64 + 4 * 32 * 4
    assert update_bytes(apg.update_arrays(), Dtype.FLOAT32) == 64 + 2 * 16 * 16 * 4
    assert update_bytes(apg.update_arrays(), Dtype.FLOAT16) == 64 + 2 * 16 * 16 * 2
    assert update_bytes(apg.update_arrays(), Dtype.INT8) == 64 + 2 * (16 * 2 + 16 * 16)


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("sizes", [[(32, 32)], [(5, 3), (1, 5)], [(7, 9), (2, 7), (1, 2)]], ids=str)
def test_an_update_of_whole_matrices_is_as_long_as_the_package_that_has_a_form_for_it(sizes, dtype):
    table = LayerTable(tuple(DynamicLayer(f"l{i}", *size) for i, size in enumerate(sizes)))

    arrays = [array for rows, columns in sizes for array in (Array("matrix", rows, columns), Array("vector", 1, rows))]

    assert update_bytes(arrays, dtype) == table.package_bytes(Representation(Form.FULL, dtype))


def test_a_core_is_never_larger_than_its_layer():
    network = DuetNetwork(replace(lively.BACKBONE, name="din"), GeneratorSizes(core_rank=16), ApgGenerator)

    assert [(a.rows, a.columns) for a in network.generator.update_arrays()] == [(16, 16), (16, 16), (1, 16)]
