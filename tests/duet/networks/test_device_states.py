"""Where a sample is longer than what the device looks at, a state is of the device's own part of it."""

from dataclasses import replace

import pytest
import torch

from duet.networks.backbones import build_backbone
from duet.networks.device_states import device_states
from tests.duet.networks import lively

LONGEST = 3


@pytest.fixture(params=lively.BACKBONE_NAMES)
def backbone(request):
    torch.manual_seed(0)
    return build_backbone(replace(lively.BACKBONE, name=request.param, length=LONGEST)).eval().double()


def states_of(backbone, items, *, exact):
    """All positions, ``[B, T, S]``."""
    with torch.no_grad():
        states = device_states(backbone, items, lively.all_positions(items), exact=exact)
    return states.view(*items.shape, -1)


def test_an_exact_state_is_that_of_a_device_with_its_last_items(backbone):
    items = lively.samples(7, 5, 2)

    states = states_of(backbone, items, exact=True)

    for row, length in enumerate((7, 5, 2)):
        for column in range(length):
            own = items[row : row + 1, max(0, column + 1 - LONGEST) : column + 1]
            held = torch.nn.functional.pad(own, (0, LONGEST - own.shape[1]))
            with torch.no_grad():
                expected = backbone.encode(held)[0, own.shape[1] - 1]
            torch.testing.assert_close(states[row, column], expected)


def test_a_chunked_state_is_that_of_its_piece(backbone):
    items = lively.samples(7, 5)

    states = states_of(backbone, items, exact=False)

    padded = torch.nn.functional.pad(items, (0, 2))
    for start in range(0, 7, LONGEST):
        with torch.no_grad():
            piece = backbone.encode(padded[:, start : start + LONGEST])
        width = min(LONGEST, 7 - start)
        torch.testing.assert_close(states[:, start : start + width], piece[:, :width])


def test_only_pieces_that_are_asked_for_are_computed(backbone, monkeypatch):
    encoded, encode = [], backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda items: encoded.append(len(items)) or encode(items))

    device_states(backbone, lively.samples(7, 2), torch.tensor([0, 1, 6, 7, 8]), exact=False)

    assert encoded == [3]


@pytest.mark.parametrize("exact", [True, False])
def test_a_sample_that_the_device_sees_whole_is_encoded_as_it_is(backbone, exact):
    items = lively.samples(3, 2)[:, :LONGEST]

    states = states_of(backbone, items, exact=exact)

    with torch.no_grad():
        assert torch.equal(states, backbone.encode(items))


def test_a_network_in_training_sees_pieces_and_a_trained_one_what_devices_see():
    network = lively.make()
    network.meta.backbone.config = replace(network.meta.backbone.config, length=LONGEST, dropout=0.0)
    network.meta.backbone.dropout.p = 0.0
    for block in network.meta.backbone.blocks:
        block.dropout.p = 0.0
    items = lively.samples(7, 5)
    positions = lively.all_positions(items)

    trained, _ = network.condition(items, positions)
    training, _ = network.train().condition(items, positions)

    torch.testing.assert_close(trained, device_states(network.meta.backbone, items, positions, exact=True))
    torch.testing.assert_close(training, device_states(network.meta.backbone, items, positions, exact=False))
    assert not torch.isclose(trained, training).all()
