"""Parameters and logits of a position depend on items up to that position only."""

import pytest
import torch

from duet.networks.duet_network import Served
from tests.duet.networks import lively

BATCH = 4


def _assert_equal(first, second):
    """Compare doubles up to the order of their sums, which may depend on what else is in a batch."""
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
@pytest.mark.parametrize("served", lively.SERVED, ids=str)
@pytest.mark.parametrize("position", range(lively.LENGTH - 1))
def test_later_items_change_no_logit_up_to_a_position(served, position, backbone):
    network, items = lively.make(backbone=backbone).double(), lively.samples(*[lively.LENGTH] * BATCH)
    perturbed = items.clone()
    perturbed[:, position + 1 :] = (perturbed[:, position + 1 :] + 5) % lively.ITEMS + 1

    before = lively.logits(network, items, served).view(BATCH, lively.LENGTH, -1)
    after = lively.logits(network, perturbed, served).view(BATCH, lively.LENGTH, -1)

    _assert_equal(after[:, : position + 1], before[:, : position + 1])
    assert not torch.isclose(after[:, position + 1 :], before[:, position + 1 :]).all(dim=2).any()


@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
@pytest.mark.parametrize("name", [name for name in lively.NETWORKS if name != "duet"])
def test_baselines_do_not_leak_either(name, backbone):
    network, items = lively.make(name, backbone=backbone).double(), lively.samples(*[lively.LENGTH] * BATCH)
    perturbed = items.clone()
    perturbed[:, 4:] = perturbed[:, 4:] % lively.ITEMS + 1

    before = lively.logits(network, items, network.served[0]).view(BATCH, lively.LENGTH, -1)
    after = lively.logits(network, perturbed, network.served[0]).view(BATCH, lively.LENGTH, -1)

    _assert_equal(after[:, :4], before[:, :4])
    assert not torch.isclose(after[:, 4:], before[:, 4:]).all(dim=2).any()


@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
@pytest.mark.parametrize("served", lively.SERVED, ids=str)
def test_one_sample_never_touches_another_in_its_batch(served, backbone):
    network, items = lively.make(backbone=backbone).double(), lively.samples(3, 7, 5)
    other = torch.cat([lively.samples(6, seed=9), items[1:]])

    before = lively.logits(network, items, served).view(3, lively.LENGTH, -1)
    after = lively.logits(network, other, served).view(3, lively.LENGTH, -1)

    _assert_equal(after[1:], before[1:])
    assert not torch.isclose(after[0], before[0]).all()


@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
@pytest.mark.parametrize("served", lively.SERVED, ids=str)
@pytest.mark.parametrize("length", [1, 2, lively.LENGTH - 1])
def test_padding_at_the_end_changes_no_real_position(served, length, backbone):
    network = lively.make(backbone=backbone).double()
    items = lively.samples(length, length)

    padded = lively.logits(network, items, served).view(2, lively.LENGTH, -1)[:, :length]
    alone = lively.logits(network, items[:, :length], served).view(2, length, -1)

    _assert_equal(padded, alone)


@pytest.mark.parametrize("served", lively.SERVED[1:], ids=str)
@pytest.mark.parametrize("lag", [1, 3, 20])
def test_stale_parameters_are_those_generated_so_many_items_before(served, lag):
    network, items = lively.make(), lively.samples(*[lively.LENGTH] * BATCH)

    def residuals(items, lag):
        with torch.no_grad():
            _, residuals = network.condition(items, lively.all_positions(items), served, lag=lag)
        for residual in residuals:
            for values in vars(residual).values():
                yield values.reshape(BATCH, lively.LENGTH, -1)

    for stale, fresh in zip(residuals(items, lag), residuals(items, 0), strict=True):
        for column in range(lively.LENGTH):
            torch.testing.assert_close(stale[:, column], fresh[:, max(0, column - lag)])
    perturbed = items.clone()
    perturbed[:, -min(lag, lively.LENGTH - 1) :] = 1
    for before, after in zip(residuals(items, lag), residuals(perturbed, lag), strict=True):
        assert torch.equal(after[:, -1], before[:, -1])


@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
def test_the_states_of_stale_parameters_are_fresh(backbone):
    network, items = lively.make(backbone=backbone), lively.samples(7, 4)
    positions = lively.all_positions(items)

    with torch.no_grad():
        fresh, _ = network.condition(items, positions, Served("full"))
        stale, _ = network.condition(items, positions, Served("full"), lag=2)

    assert torch.equal(stale, fresh)


@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
def test_an_empty_sample_gives_finite_logits(backbone):
    network, items = lively.make(backbone=backbone), torch.zeros(2, lively.LENGTH, dtype=torch.int64)

    for served in lively.SERVED:
        assert lively.logits(network, items, served).isfinite().all()
