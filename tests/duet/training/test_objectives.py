"""Losses are taken over the real targets only, and a sampled negative is never the positive."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from duet.networks.duet_network import SHARED
from duet.training.config import OptimisationOptions
from duet.training.objectives import objective
from tests.duet.networks import lively


class _Recorder:
    """A ranker whose every logit is its item's index, and which remembers what it was asked."""

    served = (SHARED,)

    def __init__(self):
        self.meta = SimpleNamespace(scores=self._scores)
        self.candidates = []

    def condition(self, items, positions, served=SHARED, *, lag=0):
        self.positions, self.lag = positions, lag
        return items.flatten()[positions].float().unsqueeze(1), None

    def _scores(self, states, residuals, candidates):
        self.candidates.append(candidates)
        return candidates.float()


def _targets(count, *, items, seed=0):
    return torch.randint(1, items + 1, (count, 5), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("items", [2, 3, 50])
def test_negatives_are_drawn_evenly_from_all_items_but_the_positive(items):
    recorder, targets = _Recorder(), _targets(400, items=items)
    options = OptimisationOptions(loss="binary", negatives=4)

    objective(recorder, targets, targets, SHARED, options, item_count=items, generator=torch.Generator().manual_seed(0))

    (candidates,) = recorder.candidates
    assert candidates.shape == (2000, 5)
    assert torch.equal(candidates[:, 0], targets.flatten())
    negatives = candidates[:, 1:]
    assert not (negatives == candidates[:, :1]).any()
    shifts = (negatives - candidates[:, :1]) % items
    counts = torch.bincount(shifts.flatten(), minlength=items)
    assert counts[0] == 0
    expected = negatives.numel() / (items - 1)
    assert ((counts[1:] - expected).abs() < 6 * expected**0.5).all()


def test_negatives_are_those_of_the_generator_that_is_handed_in():
    def draw(seed):
        recorder, targets = _Recorder(), _targets(10, items=30)
        torch.manual_seed(seed)  # must not matter
        objective(
            recorder,
            targets,
            targets,
            SHARED,
            OptimisationOptions(loss="binary"),
            item_count=30,
            generator=torch.Generator().manual_seed(5),
        )
        return recorder.candidates[0]

    assert torch.equal(draw(0), draw(1))


def test_positions_without_a_target_are_not_trained_and_the_lag_is_handed_on():
    recorder = _Recorder()
    items = torch.tensor([[4, 2, 0], [7, 0, 0]])
    targets = torch.tensor([[2, 9, 0], [0, 0, 0]])

    objective(
        recorder,
        items,
        targets,
        SHARED,
        OptimisationOptions(loss="binary"),
        item_count=9,
        generator=torch.Generator().manual_seed(0),
        lag=2,
    )

    assert recorder.positions.tolist() == [0, 1]
    assert recorder.lag == 2
    assert recorder.candidates[0][:, 0].tolist() == [2, 9]


@pytest.mark.parametrize("served", lively.SERVED, ids=str)
@pytest.mark.parametrize("loss", ["softmax", "binary"])
def test_the_loss_is_the_mean_cross_entropy_of_the_logits(loss, served):
    network, items = lively.make(), lively.samples(7, 3)
    targets = torch.where(items != 0, items % lively.ITEMS + 1, 0)
    positions = torch.nonzero(targets.flatten()).squeeze(1)
    logits = lively.logits(network, items, served, positions)
    positives = targets.flatten()[positions]

    value = objective(
        network,
        items,
        targets,
        served,
        OptimisationOptions(loss=loss, negatives=3),
        item_count=lively.ITEMS,
        generator=torch.Generator().manual_seed(1),
    )

    if loss == "softmax":
        expected = cross_entropy(logits, positives - 1)
    else:
        drawn = torch.randint(1, lively.ITEMS, (len(positives), 3), generator=torch.Generator().manual_seed(1))
        negatives = drawn + (drawn >= positives.unsqueeze(1))
        own, others = logits.gather(1, positives.unsqueeze(1) - 1), logits.gather(1, negatives - 1)
        labels = torch.cat([torch.ones_like(own), torch.zeros_like(others)], dim=1)
        expected = binary_cross_entropy_with_logits(torch.cat([own, others], dim=1), labels)
    torch.testing.assert_close(value, expected)
