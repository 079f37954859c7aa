"""An encoder of the cloud's own: it shares nothing with the device, looks back only, and all of it is trained."""

from dataclasses import replace

import pytest
import torch

from duet.networks.duet_network import DuetNetwork, Served, build_encoder
from tests.duet.networks import lively

LENGTH, DEVICE = 7, 3
ENCODERS = ["gru4rec", "sasrec"]


@pytest.fixture(params=ENCODERS)
def network(request):
    """A device that looks at 3 items, a generator that looks at 7, all parameters away from their first values."""
    torch.manual_seed(0)
    sizes = replace(lively.SIZES, length=LENGTH, encoder=request.param, encoder_width=6, dropout=0.0)
    made = DuetNetwork(replace(lively.BACKBONE, length=DEVICE, dropout=0.0), sizes)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        made.meta.backbone.items.weight[0] = 0
        made.encoder.backbone.items.weight[0] = 0
    return made.eval()


def test_later_items_change_no_logit_up_to_a_position(network):
    network, items = network.double(), lively.samples(7, 7)
    for position in range(LENGTH - 1):
        changed = items.clone()
        changed[:, position + 1 :] = (changed[:, position + 1 :] + 5) % lively.ITEMS + 1

        before, after = (lively.logits(network, each, Served("full")).view(2, LENGTH, -1) for each in (items, changed))

        torch.testing.assert_close(after[:, : position + 1], before[:, : position + 1], rtol=0, atol=1e-12)
        assert not torch.isclose(after[:, position + 1 :], before[:, position + 1 :]).all(dim=2).any()


def test_items_that_the_device_no_longer_sees_change_its_parameters_and_no_state(network):
    items, newest = lively.samples(7), torch.tensor([LENGTH - 1])
    changed = items.clone()
    changed[:, 0] = changed[:, 0] % lively.ITEMS + 1

    with torch.no_grad():
        (before, own), (after, others) = (network.condition(each, newest, Served("full")) for each in (items, changed))

    assert torch.equal(after, before)
    assert not torch.isclose(own[0].residual, others[0].residual).all()


def test_every_parameter_of_the_encoder_is_trained_and_padding_stays_zero(network):
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.1)
    before = {name: value.clone() for name, value in network.named_parameters()}
    items = lively.samples(7, 4)

    states, residuals = network.train().condition(items, torch.nonzero(items.flatten()).squeeze(1), Served("full"))
    network.meta.scores(states, residuals).square().sum().backward()
    optimizer.step()

    assert not network.encoder.backbone.items.weight[0].any()
    unmoved = {name for name, value in network.named_parameters() if torch.equal(value, before[name])}
    assert not {name for name in unmoved if name.startswith("encoder.")}


def test_it_reads_no_vector_of_the_device(network):
    items = lively.samples(7, 4)
    with torch.no_grad():
        before = network.embeddings(items)
        network.meta.backbone.items.weight.mul_(3)
        assert torch.equal(network.embeddings(items), before)


def test_the_width_of_its_items_is_its_own():
    encoder = build_encoder(lively.BACKBONE, replace(lively.SIZES, encoder="gru4rec", encoder_width=20))

    assert encoder.backbone.items.weight.shape == (lively.ITEMS + 1, 20)
    assert encoder(lively.samples(3)).shape == (1, lively.LENGTH, lively.SIZES.embedding_dim)
