"""Residuals are added to the shared layer row by row, whatever form they come in."""

import pytest
import torch

from duet.networks.duet_network import Served
from duet.networks.dynamic_layer import (
    DynamicClassifier,
    DynamicLinear,
    FullRank,
    InputShift,
    LowRank,
    split_rows,
)
from duet.protocol.layers import DynamicLayer, LayerTable
from tests.duet.networks import lively

ROWS, OUTPUTS, INPUTS, RANK = 6, 5, 3, 4


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = DynamicLinear(DynamicLayer("output", OUTPUTS, INPUTS)).double()
    torch.nn.init.normal_(layer.bias)
    return layer


@pytest.fixture
def x():
    return torch.randn(ROWS, INPUTS, dtype=torch.float64)


@pytest.fixture
def factors():
    torch.manual_seed(1)
    shapes = (ROWS, RANK, OUTPUTS), (ROWS, RANK, INPUTS), (ROWS, OUTPUTS)
    return LowRank(*(torch.randn(shape, dtype=torch.float64) for shape in shapes))


def test_low_rank_equals_the_materialised_weights(layer, x, factors):
    weights = layer.weight + factors.left.transpose(1, 2) @ factors.right  # [n, M, K]
    expected = (weights @ x.unsqueeze(-1)).squeeze(-1) + layer.bias + factors.shift

    torch.testing.assert_close(layer(x, factors), expected)
    residual = FullRank(factors.left.transpose(1, 2) @ factors.right, factors.shift)
    torch.testing.assert_close(layer(x, residual), expected)


@pytest.mark.parametrize("rank", range(1, RANK + 1))
def test_a_smaller_rank_is_the_first_rows_of_the_factors(layer, x, factors, rank):
    left, right = factors.left.clone(), factors.right
    left[:, rank:] = 0

    truncated = layer(x, LowRank(factors.left[:, :rank], right[:, :rank], factors.shift))

    torch.testing.assert_close(truncated, layer(x, LowRank(left, right, factors.shift)))


def _residual(kind, factors):
    """Make one residual of each kind."""
    return {
        "shared": None,
        "low rank": factors,
        "full rank": FullRank(factors.left.transpose(1, 2) @ factors.right, factors.shift),
        "input shift": InputShift(factors.right[:, 0]),
    }[kind]


KINDS = ("shared", "low rank", "full rank", "input shift")


@pytest.mark.parametrize("candidates", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_candidates_of_a_row_share_its_residual(layer, factors, kind, candidates):
    x, residual = torch.randn(ROWS, candidates, INPUTS, dtype=torch.float64), _residual(kind, factors)

    y = layer(x, residual)

    expected = torch.stack([layer(x[:, c], residual) for c in range(candidates)], dim=1)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_an_input_shift_is_added_before_the_shared_layer(layer, x, factors):
    shift = factors.right[:, 0]

    torch.testing.assert_close(layer(x, InputShift(shift)), layer(x + shift))


@pytest.mark.parametrize("group", [(), (4,)], ids=["rows", "candidates"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_zero_residuals_equal_the_shared_layer_to_the_last_digit(layer, factors, dtype, group):
    layer, x = layer.to(dtype), torch.randn(ROWS, *group, INPUTS, dtype=dtype)
    left, right, shift = (torch.zeros_like(t, dtype=dtype) for t in (factors.left, factors.right, factors.shift))

    shared = layer(x)

    assert torch.equal(layer(x, LowRank(left, right, shift)), shared)
    assert torch.equal(layer(x, LowRank(left, factors.right.to(dtype), shift)), shared)
    assert torch.equal(layer(x, FullRank(left.transpose(1, 2) @ right, shift)), shared)
    assert torch.equal(layer(x, InputShift(right[:, 0])), shared)


@pytest.mark.parametrize("group", [(), (2,)], ids=["rows", "candidates"])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_gradients_reach_the_shared_layer_and_the_residual(layer, factors, kind, group):
    residual, x = _residual(kind, factors), torch.randn(ROWS, *group, INPUTS, dtype=torch.float64)
    make, tensors = type(residual), tuple(vars(residual).values())

    def apply(x, weight, bias, *values):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x, make(*values)))

    inputs = (x, layer.weight, layer.bias, *tensors)
    assert torch.autograd.gradcheck(apply, tuple(value.detach().clone().requires_grad_() for value in inputs))


def test_rows_are_split_with_what_is_added_to_them(layer, factors):
    residuals = [_residual(kind, factors) for kind in KINDS]

    parts = split_rows(residuals, [4, 2])

    assert split_rows(None, [4, 2]) == [None, None]
    x = torch.randn(ROWS, INPUTS, dtype=torch.float64)
    for index, residual in enumerate(residuals):
        together = torch.cat([layer(x[:4], parts[0][index]), layer(x[4:], parts[1][index])])
        torch.testing.assert_close(together, layer(x, residual))


def test_a_classifier_puts_tanh_between_its_layers_and_none_after_the_last():
    torch.manual_seed(2)
    classifier = DynamicClassifier(LayerTable((DynamicLayer("hidden", 4, INPUTS), DynamicLayer("output", 2, 4))))
    x = 3 * torch.randn(ROWS, INPUTS)
    hidden, output = classifier.layers

    expected = torch.tanh(x @ hidden.weight.T + hidden.bias) @ output.weight.T + output.bias

    torch.testing.assert_close(classifier(x), expected)
    assert hidden.bias.abs().sum() == 0


def test_the_size_of_what_is_generated_is_relative_to_the_shared_weights():
    network = lively.make()
    classifier, embeddings = network.meta.classifier, torch.randn(4, lively.SIZES.embedding_dim)
    for served in (Served("factors", 2), Served("full")):
        residuals = network.residuals(embeddings, served)

        size = classifier.delta_size(residuals)

        expected = []
        for layer, residual in zip(classifier.layers, residuals, strict=True):
            delta = residual.left.mT @ residual.right if served.head == "factors" else residual.residual
            whole = torch.cat([delta.flatten(1), residual.shift], dim=1)
            expected.append(whole.square().sum(1).mean() / layer.weight.square().sum())
        torch.testing.assert_close(size, torch.stack(expected).mean())
        classifier.zero_grad()
        size.backward()
        assert all(layer.weight.grad is None for layer in classifier.layers)
    assert classifier.delta_size(None) == classifier.delta_size([InputShift(torch.ones(4, 8)), None]) == 0
