"""GRU4Rec is the recurrent network it is named after, with as many layers as asked for."""

import pytest
import torch

from duet.networks.backbones import BackboneConfig
from duet.networks.backbones.gru4rec import GRU4Rec
from tests.duet.networks import lively


def _gru(x, weights):
    """Run one layer of a gated recurrent network, gate by gate, over ``[T, W]``."""
    input_weight, hidden_weight, input_bias, hidden_bias = weights
    h, states = torch.zeros(x.shape[1], dtype=x.dtype), []
    for step in x:
        ir, iz, candidate = (input_weight @ step + input_bias).chunk(3)
        hr, hz, hn = (hidden_weight @ h + hidden_bias).chunk(3)
        reset, update = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
        h = (1 - update) * torch.tanh(candidate + reset * hn) + update * h
        states.append(h)
    return torch.stack(states)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_states_are_those_of_the_recurrence(blocks):
    torch.manual_seed(0)
    backbone = GRU4Rec(BackboneConfig("gru4rec", lively.ITEMS, lively.LENGTH, width=8, blocks=blocks)).double().eval()
    items = lively.samples(7)

    with torch.no_grad():
        states = backbone.encode(items)[0]

        expected, weights = backbone.embed(items)[0], list(backbone.recurrent.parameters())
        for layer in range(blocks):
            expected = _gru(expected, weights[4 * layer : 4 * layer + 4])
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)
    assert len(weights) == 4 * blocks


@pytest.mark.parametrize("blocks", [1, 2])
def test_dropout_is_on_in_training_only(blocks):
    torch.manual_seed(0)
    backbone = GRU4Rec(BackboneConfig("gru4rec", lively.ITEMS, lively.LENGTH, width=8, blocks=blocks, dropout=0.5))
    items = lively.samples(7, 3)

    assert not torch.equal(backbone.train().encode(items), backbone.encode(items))
    assert torch.equal(backbone.eval().encode(items), backbone.encode(items))
