"""The flat values of a head lie as the parameter package has them; ranks are nested; folding changes nothing."""

import pytest
import torch
from torch import nn

from duet.networks.duet_network import SHARED, Served
from duet.networks.export import generator_tensors
from duet.networks.personalized_parameters_generator import (
    PersonalizedParametersGenerator,
    head_segments,
    split_values,
)
from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.representation import Dtype, Form, Representation
from tests.duet.networks import lively

RAGGED = LayerTable((DynamicLayer("hidden", 5, 3), DynamicLayer("output", 2, 5)))
RANK = 3


@pytest.mark.parametrize("head", ["factors", "full"])
@pytest.mark.parametrize("table", [RAGGED, lively.make().meta.table], ids=["ragged", "sasrec"])
def test_segments_are_the_slots_of_a_float32_package_without_their_padding(table, head):
    representation = (
        Representation(Form.FACTORS, Dtype.FLOAT32, RANK)
        if head == "factors"
        else Representation(Form.FULL, Dtype.FLOAT32)
    )
    expected, start = [], 0
    for slot in table.slots(representation):
        expected.append((slot.layer, slot.role, start, slot.rows, slot.columns))
        start += slot.rows * slot.columns

    segments = head_segments(table, head, RANK)

    names = {"residual": "weight"}
    assert expected == [
        (table.layers[s.layer].name, names.get(s.role, s.role), s.start, s.rows, s.columns) for s in segments
    ]
    assert sum(segment.size for segment in segments) == start


def test_values_are_split_where_the_segments_say():
    segments = head_segments(RAGGED, "factors", RANK)
    values = torch.arange(2.0 * sum(s.size for s in segments)).view(2, -1)

    residuals = split_values(values, RAGGED, "factors", rank=RANK, use_rank=2)

    for segment in segments:
        flat = values[:, segment.start : segment.start + segment.size]
        got = getattr(residuals[segment.layer], segment.role)
        expected = flat if segment.role == "shift" else flat.view(2, segment.rows, segment.columns)[:, :2]
        assert torch.equal(got, expected)


def test_full_values_are_split_where_the_segments_say():
    segments = head_segments(RAGGED, "full", RANK)
    values = torch.arange(2.0 * sum(s.size for s in segments)).view(2, -1)

    residuals = split_values(values, RAGGED, "full", rank=RANK, use_rank=RANK)

    assert torch.equal(residuals[1].residual, values[:, 20:30].view(2, 2, 5))
    assert torch.equal(residuals[1].shift, values[:, 30:32])


@pytest.mark.parametrize("head", ["factors", "full"])
def test_published_tensors_reproduce_the_generator(head):
    network, embeddings = lively.make(), torch.randn(4, lively.SIZES.embedding_dim)
    tensors = generator_tensors(network)
    values = embeddings @ tensors[f"{head}.weight"].T + tensors[f"{head}.bias"]
    rank = lively.RANK

    published = split_values(values, network.meta.table, head, rank=rank, use_rank=rank)

    with torch.no_grad():
        generated = network.generator(embeddings, head)
    for ours, theirs in zip(published, generated, strict=True):
        for name, tensor in vars(ours).items():
            torch.testing.assert_close(tensor, getattr(theirs, name))


def test_published_tensors_hold_the_heads_and_the_shared_layers_only():
    network = lively.make()

    tensors = generator_tensors(network)

    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "factors.weight": (112, 5),
        "factors.bias": (112,),
        "full.weight": (144, 5),
        "full.bias": (144,),
        "shared.classifier.0.weight": (8, 8),
        "shared.classifier.0.bias": (8,),
        "shared.classifier.1.weight": (8, 8),
        "shared.classifier.1.bias": (8,),
    }
    for index, layer in enumerate(network.meta.classifier.layers):
        assert torch.equal(tensors[f"shared.classifier.{index}.weight"], layer.weight)
        assert tensors[f"shared.classifier.{index}.weight"].data_ptr() != layer.weight.data_ptr()
    assert not any(tensor.requires_grad or not tensor.is_contiguous() for tensor in tensors.values())


def test_factors_of_a_smaller_rank_are_the_first_rows_of_the_largest():
    generator = lively.make().generator
    embeddings = torch.randn(4, lively.SIZES.embedding_dim)
    largest = generator(embeddings)

    for rank in range(1, lively.RANK + 1):
        for small, large in zip(generator(embeddings, use_rank=rank), largest, strict=True):
            assert torch.equal(small.left, large.left[:, :rank])
            assert torch.equal(small.right, large.right[:, :rank])
            assert torch.equal(small.shift, large.shift)


def test_a_fresh_generator_starts_at_the_shared_classifier_but_not_at_a_dead_end():
    torch.manual_seed(0)
    network = lively.NETWORKS["duet"]().eval()
    items = lively.samples(7, 4)
    shared = lively.logits(network, items)

    for served in lively.SERVED[1:]:
        assert (lively.logits(network, items, served) - shared).abs().max() < 0.5
    with torch.no_grad():
        for residual in network.generator(torch.randn(3, lively.SIZES.embedding_dim)):
            assert residual.right.abs().mean() > 0.1


@pytest.mark.parametrize("served", lively.SERVED[1:], ids=str)
def test_a_generator_of_zeros_gives_the_shared_logits_to_the_last_digit(served):
    network, items = lively.make(), lively.samples(7, 4)
    with torch.no_grad():
        for parameter in network.generator.parameters():
            parameter.zero_()

    assert torch.equal(lively.logits(network, items, served), lively.logits(network, items))


def test_different_pasts_give_different_parameters():
    network = lively.make()
    embeddings = network.embeddings(lively.samples(7, 7))[:, -1]

    first, second = network.residuals(embeddings, Served("factors", lively.RANK))[0].left

    assert not torch.allclose(first, second)
    assert network.residuals(embeddings, SHARED) is None


@pytest.mark.parametrize("head", ["factors", "full"])
def test_layer_maps_fold_away(head):
    torch.manual_seed(0)
    generator = PersonalizedParametersGenerator(
        RAGGED, embedding_dim=4, rank=RANK, heads=("factors", "full"), layer_maps=True
    )
    for parameter in generator.parameters():
        nn.init.normal_(parameter)
    embeddings = torch.randn(6, 4)

    weight, bias = generator.fold(head)

    decoded = [
        adapter(generator.layer_maps[segment.layer](embeddings))
        for segment, adapter in zip(head_segments(RAGGED, head, RANK), generator.decoders[head], strict=True)
    ]
    torch.testing.assert_close(embeddings @ weight.T + bias, torch.cat(decoded, dim=1), rtol=1e-4, atol=1e-4)


def test_layer_maps_change_nothing_at_the_start():
    def folded(layer_maps: bool) -> torch.Tensor:
        torch.manual_seed(0)
        generator = PersonalizedParametersGenerator(
            RAGGED, embedding_dim=4, rank=2, heads=("factors",), layer_maps=layer_maps
        )
        return torch.cat([values.reshape(-1) for values in generator.fold("factors")])

    assert torch.equal(folded(True), folded(False))


def test_one_decoder_needs_no_adapter():
    generator = PersonalizedParametersGenerator(RAGGED, embedding_dim=4, rank=2, heads=("factors",), decoders=1)

    weight, bias = generator.fold("factors")

    assert torch.equal(weight, torch.cat([adapter.candidates[0].T for adapter in generator.decoders["factors"]]))
    assert bias.shape == (2 * (5 + 3) + 5 + 2 * (2 + 5) + 2,)
