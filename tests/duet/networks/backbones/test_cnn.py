"""The convolutional network: its convolution is a dynamic layer, and no image but its own decides a state."""

import torch

from duet.networks.backbones import BackboneConfig
from duet.networks.backbones.cnn import CNN
from duet.networks.duet_network import DuetNetwork, GeneratorSizes, Served
from duet.networks.dynamic_layer import FullRank

CONFIG = BackboneConfig("cnn", item_count=10, length=5, width=4, dropout=0.0)
SIZES = GeneratorSizes(embedding_dim=6, rank=3, heads=("factors", "full"), decoders=2)


def images(count=3):
    return torch.randint(0, 256, (count, 5, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    made = DuetNetwork(CONFIG, SIZES).eval()
    with torch.no_grad():
        for parameter in made.generator.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return made


def test_the_dynamic_convolution_is_a_convolution():
    backbone, torch_convolution = CNN(CONFIG), torch.nn.Conv2d(4, 8, 3, padding=1)
    states = backbone.encode(images()).flatten(0, 1)
    inputs = []

    def classify(x, between):
        # rows of a patch are taps first, channels last
        weight = torch_convolution.weight.permute(0, 2, 3, 1).reshape(8, -1)
        inputs.append(torch.nn.functional.linear(x, weight, torch_convolution.bias))
        return between(inputs[-1])

    pooled = backbone.scores(states, classify)

    convolved = torch_convolution(states.view(-1, 4, 4, 4))
    torch.testing.assert_close(inputs[0].mT.reshape(-1, 8, 4, 4), convolved)
    torch.testing.assert_close(pooled, torch.nn.functional.max_pool2d(convolved.relu(), 2).flatten(1))


def test_every_image_of_a_row_has_the_parameters_of_its_row():
    made = network()
    states, residuals = made.condition(images(), torch.tensor([4, 9, 14]), Served("full"))

    scores = made.meta.scores(states, residuals)

    for row in range(3):
        own = [FullRank(each.residual[row : row + 1], each.shift[row : row + 1]) for each in residuals]
        torch.testing.assert_close(made.meta.scores(states[row : row + 1], own), scores[row : row + 1])
    assert (scores - made.meta.scores(states)).abs().max() > 0.01


def test_candidates_are_classes_from_one():
    made = network()
    states = made.meta.backbone.encode(images()).flatten(0, 1)[:2]
    everything = made.meta.scores(states)

    torch.testing.assert_close(made.meta.scores(states, None, torch.tensor([10, 1])), everything[:, [9, 0]])
    own = torch.tensor([[1, 2], [10, 3]])
    torch.testing.assert_close(made.meta.scores(states, None, own), everything.gather(1, own - 1))


def test_the_loss_is_the_cross_entropy_of_the_logits():
    made = network()
    states, targets = made.meta.backbone.encode(images()).flatten(0, 1)[:2], torch.tensor([1, 10])

    expected = torch.nn.functional.cross_entropy(made.meta.scores(states), targets - 1)

    torch.testing.assert_close(made.meta.catalogue_loss(states, None, targets), expected)


def test_nothing_depends_on_images_that_come_later():
    made, changed = network(), images()
    changed[:, 3] = 255 - changed[:, 3]
    positions = torch.arange(15)

    with torch.no_grad():
        before = made.meta.scores(*made.condition(images(), positions, Served("factors", 3))).view(3, 5, -1)
        after = made.meta.scores(*made.condition(changed, positions, Served("factors", 3))).view(3, 5, -1)

    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert (before[:, 3] - after[:, 3]).abs().max() > 1e-3
    assert (before[:, 4] - after[:, 4]).abs().max() > 1e-4, "parameters must know the images before"


def test_every_parameter_gets_a_gradient():
    made = network().train()
    states, residuals = made.condition(images(), torch.arange(15), Served("factors", 3))

    made.meta.catalogue_loss(states, residuals, torch.randint(1, 11, (15,))).backward()

    used = {name for name, parameter in made.named_parameters() if ".full." not in name}
    assert {name for name, parameter in made.named_parameters() if parameter.grad is not None} == used
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in made.named_parameters() if name in used)
