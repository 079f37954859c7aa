"""DIN's logits are those of the paper's formula, however its candidates come and however many are scored at once."""

import pytest
import torch
from torch.nn.functional import linear

from duet.networks.backbones import BackboneConfig, din
from duet.networks.duet_network import SHARED, Served
from duet.protocol.layers import DynamicLayer
from tests.duet.networks import lively

FORMS = ["whole catalogue", "shared", "own"]


@pytest.fixture
def network():
    return lively.make(backbone="din").double()


def _prelu(x, slope):
    return torch.where(x > 0, x, slope * x)


def _naive_logit(network, past, candidate, position, residuals):
    """Score one candidate for one position, pair by pair: the formula of the module's docstring."""
    backbone, unit = network.meta.backbone, network.meta.backbone.activation
    e = backbone.items.weight[candidate]
    attended = torch.zeros_like(e)
    for item in past:
        h = backbone.items.weight[item]
        hidden = _prelu(unit.hidden(torch.cat([h, e, h - e, h * e])), unit.slope)
        attended = attended + unit.output(hidden) * h
    x = torch.cat([e, attended])
    for index, layer in enumerate(network.meta.classifier.layers):
        weight, bias = layer.weight, layer.bias
        if residuals is not None:
            values = residuals[index]
            weight = weight + values.left[position].T @ values.right[position]
            bias = bias + values.shift[position]
        x = linear(x if index == 0 else torch.tanh(x), weight, bias)
    return x


def _conditioned(network, items, served):
    return network.condition(items, lively.all_positions(items), served)


def _candidates(form, rows):
    if form == "whole catalogue":
        return None, torch.arange(1, lively.ITEMS + 1).expand(rows, -1)
    if form == "shared":
        return torch.tensor([4, 2, 19]), torch.tensor([4, 2, 19]).expand(rows, -1)
    own = torch.randint(1, lively.ITEMS + 1, (rows, 3), generator=torch.Generator().manual_seed(2))
    return own, own


@pytest.mark.parametrize("served", [SHARED, Served("factors", 2)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_the_formula(network, form, served):
    items = lively.samples(3, 7)
    given, meant = _candidates(form, items.numel())
    with torch.no_grad():
        states, residuals = _conditioned(network, items, served)

        logits = network.meta.scores(states, residuals, given)

        for position in (0, 2, 7, 11, 13):
            sample, column = items[position // lively.LENGTH], position % lively.LENGTH
            for place in range(min(3, meant.shape[1])):
                expected = _naive_logit(network, sample[: column + 1], meant[position, place], position, residuals)
                torch.testing.assert_close(logits[position, place], expected[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("pairs", [1, 14, 45, 10**9])
@pytest.mark.parametrize("served", lively.SERVED, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_how_many_pairs_are_scored_at_once_changes_no_logit_and_no_gradient(network, form, served, pairs, monkeypatch):
    items = lively.samples(5, 7)
    given, _ = _candidates(form, items.numel())

    def run():
        logits = network.meta.scores(*_conditioned(network, items, served), given)
        used = [value for value in network.parameters() if value.requires_grad]
        return [logits, *torch.autograd.grad(logits.square().sum(), used, allow_unused=True, materialize_grads=True)]

    expected = run()
    monkeypatch.setattr(din, "PAIRS", pairs)

    for value, other in zip(run(), expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-12)


def test_gradients_are_those_of_finite_differences(network):
    unit = network.meta.backbone.activation
    left, right = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 4, 8, dtype=torch.float64)
    names = [name for name, _ in unit.named_parameters()]

    def weigh(left, right, *values):
        arguments = (left, right), {"left_is_history": False}
        return torch.func.functional_call(unit, dict(zip(names, values, strict=True)), *arguments)

    inputs = [value.detach().requires_grad_() for value in (left, right, *unit.parameters())]
    assert torch.autograd.gradcheck(weigh, inputs)


@pytest.mark.parametrize("history", [True, False], ids=["history left", "target left"])
def test_either_vector_may_stand_left(network, history):
    unit = network.meta.backbone.activation
    left, right = torch.randn(3, 8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)

    weights = unit(left, right, left_is_history=history)

    torch.testing.assert_close(weights, unit(right, left, left_is_history=not history).mT, rtol=0, atol=1e-12)


def test_a_state_is_the_sample_up_to_its_position(network):
    items = torch.tensor([[3, 1, 4, 1, 0, 0, 0]])

    states = network.meta.backbone.encode(items)

    assert states.tolist() == [
        [
            [3, 0, 0, 0, 0, 0, 0],
            [3, 1, 0, 0, 0, 0, 0],
            [3, 1, 4, 0, 0, 0, 0],
            *[[3, 1, 4, 1, 0, 0, 0]] * 4,
        ]
    ]


def test_the_order_of_a_sample_does_not_matter_but_its_items_do(network):
    def logits(sample):
        items = torch.tensor([sample])
        return lively.logits(network, items, SHARED, torch.tensor([lively.LENGTH - 1]))

    first = logits([1, 2, 3, 4, 5, 6, 7])

    torch.testing.assert_close(logits([7, 3, 5, 1, 2, 4, 6]), first, rtol=0, atol=1e-12)
    assert not torch.isclose(logits([1, 2, 3, 4, 5, 6, 8]), first).any()
    assert not torch.isclose(logits([1, 2, 3, 4, 5, 6, 6]), first).any()


def test_dropout_drops_whole_items_each_position_its_own_and_only_in_training(network):
    backbone, items = network.meta.backbone, lively.samples(*[lively.LENGTH] * 400)
    kept = backbone.encode(items)
    torch.manual_seed(0)

    dropped = backbone.train().encode(items)

    assert ((dropped == kept) | (dropped == 0)).all()
    past = kept != 0
    share = (dropped[past] == 0).double().mean().item()
    assert share == pytest.approx(backbone.config.dropout, abs=0.01)
    assert not torch.equal(dropped[:, -1] == 0, dropped[:, -2] == 0)
    assert torch.equal(backbone.eval().encode(items), kept)


def test_the_classifier_is_the_papers_at_its_width():
    layers = din.DIN(BackboneConfig("din", item_count=5, length=4, width=32)).dynamic_layers

    assert layers == (
        DynamicLayer("classifier.0", 128, 64),
        DynamicLayer("classifier.1", 64, 128),
        DynamicLayer("classifier.2", 1, 64),
    )
    assert sum(layer.outputs * (layer.inputs + 1) for layer in layers) == 16_641


def test_a_whole_catalogue_goes_through_the_classifier_in_parts_that_do_not_grow_with_the_devices(monkeypatch):
    network, items, shapes = lively.make(backbone="din"), lively.samples(*[lively.LENGTH] * 64), []
    monkeypatch.setattr(din, "PAIRS", 128)
    network.meta.classifier.register_forward_pre_hook(lambda _, arguments: shapes.append(arguments[0].shape))

    lively.logits(network, items, SHARED, torch.arange(64) * lively.LENGTH + 6)

    assert {devices * candidates for devices, candidates, _ in shapes} == {128, 64}
    assert sum(candidates for _, candidates, _ in shapes) == lively.ITEMS


def test_a_softmax_over_the_catalogue_is_refused_with_what_to_do(network):
    states, residuals = _conditioned(network, lively.samples(3), SHARED)

    with pytest.raises(ValueError, match=r"sees no candidate, got 'din'"):
        network.meta.catalogue_loss(states, residuals, torch.ones(lively.LENGTH, dtype=torch.int64))
