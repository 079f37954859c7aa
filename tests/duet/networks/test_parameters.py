"""Every parameter is registered, gets a gradient and changes in a step; the padding vector never does."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from duet.networks.duet_network import DuetNetwork, GeneratorSizes
from duet.training.config import OptimisationOptions
from duet.training.objectives import objective
from tests.duet.networks import lively

LOSSES = ["softmax", "sampled-softmax", "binary"]
CASES = [
    pytest.param(name, backbone, loss, id=f"{name}-{backbone}-{loss}")
    for name in lively.NETWORKS
    for backbone in lively.BACKBONE_NAMES
    for loss in LOSSES
    if (backbone, loss) != ("din", "softmax")
]


def _loss(network, served, loss):
    items = lively.samples(7, 7, 4, 1)
    targets = torch.where(items != 0, items % lively.ITEMS + 1, 0)
    return objective(
        network,
        items,
        targets,
        served,
        OptimisationOptions(loss=loss),
        item_count=lively.ITEMS,
        generator=torch.Generator().manual_seed(0),
    )


def _leaves(loss):
    """Collect every tensor that the loss has a gradient for, found in the graph itself."""
    waiting, seen, leaves = [loss.grad_fn], set(), {}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node.variable
        waiting += [following for following, _ in node.next_functions]
    return leaves


@pytest.mark.parametrize(("name", "backbone", "loss"), CASES)
def test_what_the_loss_depends_on_is_registered_and_all_that_is_registered_is_used(name, backbone, loss):
    network = lively.make(name, backbone=backbone).train()
    leaves = {}
    for served in lively.kinds(name, network):
        leaves |= _leaves(_loss(network, served, loss))

    assert leaves.keys() == {id(parameter) for parameter in network.parameters()}


@pytest.mark.parametrize(("name", "backbone", "loss"), CASES)
def test_every_parameter_gets_a_gradient_and_changes_in_a_step(name, backbone, loss):
    network = lively.fresh(name, backbone=backbone)  # as it is initialised: nothing may be stuck at the start either
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    reached = set()

    for served in lively.kinds(name, network):
        optimizer.zero_grad(set_to_none=True)
        _loss(network, served, loss).backward()
        reached |= {key for key, value in network.named_parameters() if value.grad is not None and value.grad.any()}
        optimizer.step()

    # what is added to every logit of a row has no effect on a softmax
    constant = {"meta.classifier.layers.2.bias"} if (backbone, loss) == ("din", "sampled-softmax") else set()
    assert reached | constant == {key for key, _ in network.named_parameters()}
    assert {key for key, value in network.state_dict().items() if torch.equal(value, before[key])} <= constant


def test_every_decoder_of_every_dynamic_layer_is_a_parameter():
    network = lively.make()

    shapes = {name: tuple(value.shape) for name, value in network.generator.named_parameters()}

    expected = {}
    for head, sizes in {"factors": [24, 24, 8, 24, 24, 8], "full": [64, 8, 64, 8]}.items():
        for index, values in enumerate(sizes):
            expected[f"decoders.{head}.{index}.candidates"] = (3, 5, values)
            expected[f"decoders.{head}.{index}.offset"] = (values,)
    assert shapes == expected


@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
@pytest.mark.parametrize("name", lively.NETWORKS)
def test_a_state_dict_carries_the_whole_network(name, backbone):
    first, second = (lively.make(name, backbone=backbone, seed=seed) for seed in (0, 1))
    items, served = lively.samples(7, 3), lively.kinds(name, first)

    second.load_state_dict(first.state_dict())

    for kind in served:
        assert torch.equal(lively.logits(second, items, kind), lively.logits(first, items, kind))


@pytest.mark.parametrize(("name", "backbone", "loss"), CASES)
def test_the_padding_vector_stays_zero_while_training(name, backbone, loss):
    network = lively.make(name, backbone=backbone).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)

    for served in lively.kinds(name, network):
        optimizer.zero_grad(set_to_none=True)
        _loss(network, served, loss).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    assert not network.meta.backbone.items.weight[0].any()
    assert network.meta.backbone.items.weight[1:].any(dim=1).all()


@pytest.mark.parametrize("heads", [("factors",), ("full",)], ids=str)
@pytest.mark.parametrize("backbone", lively.BACKBONE_NAMES)
def test_the_capacity_matched_network_is_as_large_as_duet_with_folded_decoders(backbone, heads):
    sizes = GeneratorSizes(embedding_dim=16, rank=4, heads=heads, decoders=1)
    counts = [
        sum(value.numel() for value in make(replace(lively.BACKBONE, name=backbone), sizes).parameters())
        for make in (DuetNetwork, lively.CapacityMatchedNetwork)
    ]

    assert counts[1] == pytest.approx(counts[0], rel=0.02)


def test_unknown_heads_and_backbones_are_refused():
    with pytest.raises(ValueError, match="heads among"):
        DuetNetwork(lively.BACKBONE, GeneratorSizes(heads=("spectral",)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"backbone among \['cnn', 'din', 'gru4rec', 'sasrec'\]"):
        DuetNetwork(lively.BackboneConfig("transformer", 3, 4), lively.SIZES)
    with pytest.raises(ValueError, match="divisible"):
        DuetNetwork(lively.BackboneConfig("sasrec", 3, 4, width=9, heads=2), lively.SIZES)
