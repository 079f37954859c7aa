"""Residuals are added to the shared layer row by row, whatever form they come in."""

import pytest
import torch

from duet.networks.dynamic_layer import DynamicClassifier, DynamicLinear, FullRank, LowRank
from duet.protocol.layers import DynamicLayer, LayerTable

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_zero_residuals_equal_the_shared_layer_to_the_last_digit(layer, x, factors, dtype):
    layer, x = layer.to(dtype), x.to(dtype)
    left, right, shift = (torch.zeros_like(t, dtype=dtype) for t in (factors.left, factors.right, factors.shift))

    shared = layer(x)

    assert torch.equal(layer(x, LowRank(left, right, shift)), shared)
    assert torch.equal(layer(x, LowRank(left, factors.right.to(dtype), shift)), shared)
    assert torch.equal(layer(x, FullRank(left.transpose(1, 2) @ right, shift)), shared)


@pytest.mark.parametrize("form", ["low rank", "full rank"])
def test_gradients_reach_the_shared_layer_and_the_residual(layer, x, factors, form):
    residual = factors if form == "low rank" else FullRank(factors.left.transpose(1, 2) @ factors.right, factors.shift)
    kind, tensors = type(residual), tuple(vars(residual).values())

    def apply(x, weight, bias, *values):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x, kind(*values)))

    inputs = (x, layer.weight, layer.bias, *tensors)
    assert torch.autograd.gradcheck(apply, tuple(value.detach().clone().requires_grad_() for value in inputs))


def test_a_classifier_puts_tanh_between_its_layers_and_none_after_the_last():
    torch.manual_seed(2)
    classifier = DynamicClassifier(LayerTable((DynamicLayer("hidden", 4, INPUTS), DynamicLayer("output", 2, 4))))
    x = 3 * torch.randn(ROWS, INPUTS)
    hidden, output = classifier.layers

    expected = torch.tanh(x @ hidden.weight.T + hidden.bias) @ output.weight.T + output.bias

    torch.testing.assert_close(classifier(x), expected)
    assert hidden.bias.abs().sum() == 0
