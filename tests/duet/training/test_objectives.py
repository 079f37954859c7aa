"""Losses are taken over the real targets only, and a sampled negative is never the positive."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from duet.networks.duet_network import SHARED, Served
from duet.training import objectives
from duet.training.config import OptimisationOptions
from duet.training.objectives import objective, sampled_cross_entropy
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


BACKBONE_LOSSES = [
    (backbone, loss)
    for backbone in lively.BACKBONE_NAMES
    for loss in ("softmax", "sampled-softmax", "binary")
    if (backbone, loss) != ("din", "softmax")
]


@pytest.mark.parametrize("served", lively.SERVED, ids=str)
@pytest.mark.parametrize(("backbone", "loss"), BACKBONE_LOSSES)
def test_the_loss_is_the_mean_cross_entropy_of_the_logits(backbone, loss, served):
    network, items = lively.make(backbone=backbone), lively.samples(7, 3)
    targets = torch.where(items != 0, items % lively.ITEMS + 1, 0)
    positions = torch.nonzero(targets.flatten()).squeeze(1)
    logits = lively.logits(network, items, served, positions)
    positives = targets.flatten()[positions]

    value = objective(
        network,
        items,
        targets,
        served,
        OptimisationOptions(loss=loss, negatives=3, sampled_negatives=5),
        item_count=lively.ITEMS,
        generator=torch.Generator().manual_seed(1),
    )

    own = logits.gather(1, positives.unsqueeze(1) - 1)
    if loss == "softmax":
        expected = cross_entropy(logits, positives - 1)
    elif loss == "sampled-softmax":
        shared = 1 + torch.randperm(lively.ITEMS, generator=torch.Generator().manual_seed(1))[:5]
        expected = sampled_cross_entropy(own, logits[:, shared - 1], positives, shared, item_count=lively.ITEMS)
    else:
        drawn = torch.randint(1, lively.ITEMS, (len(positives), 3), generator=torch.Generator().manual_seed(1))
        negatives = drawn + (drawn >= positives.unsqueeze(1))
        others = logits.gather(1, negatives - 1)
        labels = torch.cat([torch.ones_like(own), torch.zeros_like(others)], dim=1)
        expected = binary_cross_entropy_with_logits(torch.cat([own, others], dim=1), labels)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("count", [lively.ITEMS, 10 * lively.ITEMS])
@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
def test_with_all_items_drawn_the_sampled_softmax_is_the_whole_one(backbone, count):
    network, items = lively.make(backbone=backbone), lively.samples(7, 3)
    targets = torch.where(items != 0, items % lively.ITEMS + 1, 0)
    positions = torch.nonzero(targets.flatten()).squeeze(1)
    options = OptimisationOptions(loss="sampled-softmax", sampled_negatives=count)

    value = objective(
        network, items, targets, SHARED, options, item_count=lively.ITEMS, generator=torch.Generator().manual_seed(0)
    )

    expected = cross_entropy(lively.logits(network, items, SHARED, positions), targets.flatten()[positions] - 1)
    torch.testing.assert_close(value, expected)


def test_the_sampled_sum_over_the_catalogue_is_right_on_average():
    torch.manual_seed(0)
    logits, positive = 2 * torch.randn(1, 30, dtype=torch.float64), torch.tensor([8])
    own = logits[:, positive - 1]
    estimates = []
    for _ in range(4000):
        shared = 1 + torch.randperm(30)[:6]
        loss = sampled_cross_entropy(own, logits[:, shared - 1], positive, shared, item_count=30)
        estimates.append((own + loss).exp().item())

    total, spread = sum(estimates) / len(estimates), torch.tensor(estimates).std().item()

    assert total == pytest.approx(logits.exp().sum().item(), abs=4 * spread / len(estimates) ** 0.5)
    assert spread > 0


def test_a_positive_among_the_negatives_is_left_out_and_alone_costs_nothing():
    own, others = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    positives, negatives = torch.tensor([4, 7]), torch.tensor([4, 7])

    value = sampled_cross_entropy(own, others, positives, negatives, item_count=3)

    first = -torch.tensor([1.0, 0.5 + math.log(2)]).log_softmax(0)[0]
    second = -torch.tensor([2.0, 0.0 + math.log(2)]).log_softmax(0)[0]
    torch.testing.assert_close(value, (first + second) / 2)
    assert sampled_cross_entropy(own[:1], others[:1, :1], positives[:1], negatives[:1], item_count=3) == 0


@pytest.mark.parametrize("served", lively.SERVED, ids=str)
def test_neighbours_share_negatives_and_other_positions_have_others(served, monkeypatch):
    network, items = lively.make(), lively.samples(7, 7)
    targets = items % lively.ITEMS + 1
    options = OptimisationOptions(loss="sampled-softmax", sampled_negatives=3)
    logits = lively.logits(network, items, served)
    monkeypatch.setattr(objectives, "NEIGHBOURS", 5)

    value = objective(
        network, items, targets, served, options, item_count=lively.ITEMS, generator=torch.Generator().manual_seed(4)
    )

    generator, parts, drawn = torch.Generator().manual_seed(4), [], []
    for rows in torch.arange(14).split(5):
        shared, positives = 1 + torch.randperm(lively.ITEMS, generator=generator)[:3], targets.flatten()[rows]
        own = logits[rows].gather(1, positives.unsqueeze(1) - 1)
        loss = sampled_cross_entropy(own, logits[rows][:, shared - 1], positives, shared, item_count=lively.ITEMS)
        parts.append(len(rows) * loss)
        drawn.append(tuple(shared.tolist()))
    torch.testing.assert_close(value, sum(parts) / 14)
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
def test_computing_again_instead_of_keeping_changes_neither_loss_nor_gradients(backbone, monkeypatch):
    network, items = lively.make(backbone=backbone).double(), lively.samples(7, 7)
    targets = items % lively.ITEMS + 1
    options = OptimisationOptions(loss="sampled-softmax", sampled_negatives=3)

    def run():
        generator = torch.Generator().manual_seed(4)
        served = Served("factors", 2)
        loss = objective(network, items, targets, served, options, item_count=lively.ITEMS, generator=generator)
        used = dict(network.named_parameters()).values()
        return [loss, *torch.autograd.grad(loss, used, allow_unused=True, materialize_grads=True)]

    kept = run()
    monkeypatch.setattr(objectives, "KEPT_LOGITS", 0)

    for value, expected in zip(run(), kept, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
