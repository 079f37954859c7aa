"""What the classifier, the objectives and the device graph rely on holds for every backbone."""

import pytest
import torch

from duet.networks.backbones import BACKBONES, BackboneConfig, DotProductBackbone, build_backbone
from tests.duet.networks import lively


@pytest.fixture(params=lively.BACKBONE_NAMES)
def network(request):
    return lively.make(backbone=request.param).double()


@pytest.mark.parametrize("served", lively.SERVED, ids=str)
def test_candidates_get_the_logits_they_have_in_the_whole_catalogue(network, served):
    items = lively.samples(7, 2)
    positions = lively.all_positions(items)
    own = torch.randint(1, lively.ITEMS + 1, (len(positions), 4), generator=torch.Generator().manual_seed(0))
    shared = torch.tensor([3, 23, 1, 7, 7])
    whole = lively.logits(network, items, served)

    with torch.no_grad():
        states, residuals = network.condition(items, positions, served)
        scores = {name: network.meta.scores(states, residuals, c) for name, c in {"own": own, "shared": shared}.items()}

    assert whole.shape == (len(positions), lively.ITEMS)
    torch.testing.assert_close(scores["own"], whole.gather(1, own - 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(scores["shared"], whole[:, shared - 1], rtol=0, atol=1e-12)


def test_the_vector_of_padding_is_zero_and_those_of_items_are_not(network):
    vectors = network.meta.backbone.embed(torch.arange(lively.ITEMS + 1))

    assert not vectors[0].any()
    assert vectors[1:].any(dim=1).all()


def test_states_of_a_sample_may_be_selected_by_position(network):
    items = lively.samples(7, 3, 5)

    states = network.meta.backbone.encode(items)

    assert states.shape[:2] == items.shape
    assert states.dim() == 3


def test_only_backbones_that_score_by_dot_product_offer_the_whole_softmax():
    offered = {name for name in BACKBONES if isinstance(lively.fresh(backbone=name).meta.backbone, DotProductBackbone)}

    assert offered == {"sasrec", "gru4rec"}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_fresh_backbone_is_decided_by_the_seed(name):
    def build():
        torch.manual_seed(3)
        return build_backbone(BackboneConfig(name, item_count=9, length=5)).state_dict()

    first, second = build(), build()

    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
