"""Devices that fine-tune side by side go the way that each would go alone, and nobody else's model changes."""

import pytest
import torch

from duet.training.config import OptimisationOptions
from duet.training.fine_tuning import FineTuning, Lessons, Recipe, fine_tune_one, lessons_of
from duet.training.tasks import split_of
from duet.training.unrolled_gru import UnrolledGRU
from tests.duet.networks import lively

LOSSES = ("softmax", "sampled-softmax", "binary")
CASES = [
    pytest.param(backbone, loss, layers, id=f"{backbone}-{loss}-{layers}")
    for backbone in lively.BACKBONE_NAMES
    for loss in LOSSES
    for layers in ("classifier", "all")
    if (backbone, loss) != ("din", "softmax")
]


def lessons():
    """Devices that know 7, 5 and 3 items, and one that knows a single item and has nothing to learn from."""
    items = lively.samples(7, 5, 1, 3)
    following = torch.cat([items[:, 1:], torch.zeros(4, 1, dtype=torch.int64)], dim=1)
    return Lessons(items, following)


@pytest.mark.parametrize(("backbone", "loss", "layers"), CASES)
def test_side_by_side_is_what_each_does_alone(backbone, loss, layers):
    meta, own = lively.make("static", backbone=backbone).meta, lessons()
    options, recipe = OptimisationOptions(loss=loss, sampled_negatives=9), Recipe(layers, 1e-2, 4)
    tuning = FineTuning(meta, options, lively.ITEMS)
    newest = (own.inputs != 0).sum(1) - 1

    ((steps, parameters),) = tuning.run(own, recipe)

    assert steps == 4
    scores = tuning.score(parameters, own.inputs, newest)
    for device in range(len(own)):
        rows = slice(device, device + 1)
        alone = fine_tune_one(meta, own.of(rows), recipe, options, lively.ITEMS)
        with torch.no_grad():
            states = alone.backbone.encode(own.inputs[rows])[:, newest[device]]
            expected, before = (
                alone.scores(states)[0],
                meta.scores(meta.backbone.encode(own.inputs[rows])[:, newest[device]])[0],
            )
        # what is added to all scores alike has no gradient but noise, which Adam follows
        torch.testing.assert_close(
            scores[device] - scores[device].mean(), expected - expected.mean(), rtol=1e-4, atol=1e-4
        )
        assert torch.allclose(expected, before) == (device == 2)


@pytest.mark.parametrize("layers", ["classifier", "all"])
def test_only_the_layers_that_are_asked_for_change_and_never_the_model_they_start_from(layers):
    meta, own = lively.make("static").meta, lessons()
    before = {name: value.clone() for name, value in meta.state_dict().items()}

    tuned = fine_tune_one(meta, own.of(slice(0, 1)), Recipe(layers, 1e-2, 2), OptimisationOptions(), lively.ITEMS)
    list(FineTuning(meta, OptimisationOptions(), lively.ITEMS).run(own, Recipe(layers, 1e-2, 2)))

    assert all(torch.equal(value, before[name]) for name, value in meta.state_dict().items())
    moved = {name for name, value in tuned.named_parameters() if not torch.equal(value, before[name])}
    classifier = {name for name in before if name.startswith("classifier.")}
    assert moved & classifier
    assert (moved == classifier) if layers == "classifier" else (moved - classifier)


def test_parameters_are_seen_after_every_stop_and_at_the_end():
    tuning = FineTuning(lively.make("static").meta, OptimisationOptions(), lively.ITEMS)
    name = "meta.classifier.layers.0.weight"

    long = {step: values[name].clone() for step, values in tuning.run(lessons(), Recipe("all", 1e-2, 5), (1, 3, 9))}

    assert list(long) == [1, 3, 5]
    for steps, values in long.items():
        ((_, short),) = tuning.run(lessons(), Recipe("all", 1e-2, steps))
        torch.testing.assert_close(short[name], values)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_device_never_learns_from_the_item_it_will_be_asked_about(tiny_config, tiny_interactions, part):
    split = split_of(tiny_config, tiny_interactions)

    own = lessons_of(split, split.users, part, 6)

    for row, user in enumerate(split.users):
        history = split.history(int(user), part)
        learnt = own.targets[row][own.targets[row] != 0].tolist()
        assert learnt == history[1:][-6:].tolist()
        assert own.inputs[row, : len(learnt)].tolist() == history[:-1][-6:].tolist()


@pytest.mark.parametrize("layers", [1, 3])
def test_an_unrolled_gru_is_the_fused_one(layers):
    torch.manual_seed(0)
    fused, x = torch.nn.GRU(5, 4, layers, batch_first=True), torch.randn(3, 7, 5)

    unrolled = UnrolledGRU(fused)

    torch.testing.assert_close(unrolled(x)[0], fused(x)[0])
    assert dict(unrolled.named_parameters()).keys() == dict(fused.named_parameters()).keys()
