"""The adapter mixes decoders per coordinate, with weights that sum to 1 over the decoders, and folds into one."""

import math

import pytest
import torch

from duet.networks.stable_weight_adapter import StableWeightAdapter


def _adapter(decoders, *, scale=1.0, values=11):
    torch.manual_seed(decoders)
    adapter = StableWeightAdapter(6, values, decoders=decoders, scale=scale).double()
    torch.nn.init.normal_(adapter.offset)
    return adapter


@pytest.mark.parametrize("decoders", [1, 2, 5])
def test_folded_equals_unfolded(decoders):
    adapter, embeddings = _adapter(decoders), torch.randn(9, 6, dtype=torch.float64)

    weight, bias = adapter.fold()

    torch.testing.assert_close(embeddings @ weight.T + bias, adapter(embeddings), rtol=1e-12, atol=1e-12)


def test_weights_are_the_softmax_over_decoders_of_their_self_similarity():
    adapter = _adapter(3)
    expected = torch.empty(3, 6, dtype=torch.float64)
    for coordinate in range(6):
        rows = adapter.candidates.detach()[:, coordinate]
        similarity = [sum(float(row @ other) for other in rows) / math.sqrt(rows.shape[1]) for row in rows]
        exponentials = [math.exp(value) for value in similarity]
        expected[:, coordinate] = torch.tensor([value / sum(exponentials) for value in exponentials])

    torch.testing.assert_close(adapter.mixing_weights(), expected)


def test_weights_sum_to_one_over_decoders_and_not_over_coordinates():
    weights = _adapter(4).mixing_weights()

    assert weights.shape == (4, 6)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(6, dtype=torch.float64))
    assert (weights.sum(dim=1) - 1).abs().min() > 0.01


def test_one_decoder_is_the_identity():
    adapter = _adapter(1)

    weight, bias = adapter.fold()

    assert torch.equal(weight, adapter.candidates[0].T)
    assert torch.equal(bias, adapter.offset)


def test_small_initial_decoders_are_averaged():
    weights = _adapter(5, scale=0.01).mixing_weights()

    torch.testing.assert_close(weights, torch.full_like(weights, 0.2), rtol=0, atol=1e-3)


def test_a_high_temperature_evens_the_weights_out():
    adapter = _adapter(3)
    sharp = adapter.mixing_weights().max()

    adapter.temperature = 1e9

    assert sharp > 0.5
    torch.testing.assert_close(adapter.mixing_weights(), torch.full((3, 6), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize("decoders", [1, 3])
def test_gradient_flows_to_every_number_of_every_candidate(decoders, folded):
    adapter = _adapter(decoders, scale=0.1)
    embeddings = torch.randn(4, 6, dtype=torch.float64)
    weight, bias = adapter.fold()
    outputs = embeddings @ weight.T + bias if folded else adapter(embeddings)

    outputs.square().sum().backward()

    assert adapter.candidates.grad.ne(0).all()
    assert adapter.offset.grad.ne(0).all()


def test_gradients_are_those_of_finite_differences_through_the_mixing_weights():
    adapter = _adapter(3, values=4)
    embeddings = torch.randn(2, 6, dtype=torch.float64)

    def decode(candidates):
        return torch.func.functional_call(adapter, {"candidates": candidates}, (embeddings,))

    assert torch.autograd.gradcheck(decode, (adapter.candidates,))
