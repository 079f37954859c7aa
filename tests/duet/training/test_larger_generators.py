"""A generator that sees more than the device: every position is trained, and regularisation reaches it alone."""

import pytest
import torch
from safetensors.torch import load_file

from duet.evaluation.conditions import evaluate_run, newest_embeddings, rank_with_embeddings
from duet.networks.duet_network import Served
from duet.training import checkpoint
from duet.training.loop import train
from duet.training.networks import build_network
from duet.training.ranking import ask, rank
from duet.training.tasks import split_of
from tests.duet.training.test_loop import LONGER, changed, history


@pytest.fixture(scope="module")
def config(tiny_config):
    return changed(tiny_config, optimisation__max_epochs=3, optimisation__patience=9)


def test_every_interaction_is_trained_and_ranked_where_samples_are_longer_than_the_device(
    config, tiny_interactions, tmp_path
):
    config = changed(config, **LONGER, optimisation__max_epochs=1)
    train(config, tiny_interactions, tmp_path)
    network = build_network(config, tiny_interactions.item_count)
    checkpoint.load_best(tmp_path, network)
    split = split_of(config, tiny_interactions)
    questions = ask(split, split.users, "validation", 11)

    (entry,) = history(tmp_path)

    assert entry["positions"] == int((split.train_lengths - 1).clip(0).sum())
    assert entry["validation"]["full"] == float(rank(network, questions, Served("full")).ndcg().mean())


def test_a_step_has_as_many_positions_whatever_the_length_of_a_window(config, tiny_interactions, tmp_path):
    config = changed(config, backbone__length=3, optimisation__batch_size=160, optimisation__least_steps=1)
    steps = {}
    for length in (None, 8, 22):
        one = changed(config, generator__length=length, optimisation__max_epochs=1)
        steps[length] = train(one, tiny_interactions, tmp_path / str(length)).step

    # 2,400 positions in windows of at most 3: 6 or 7 steps
    assert all(abs(count - steps[None]) <= 1 for count in steps.values()), steps


def test_the_generator_may_have_a_weight_decay_of_its_own(config, tiny_interactions, tmp_path):
    norms = {}
    for decay in (None, 50.0):
        one = changed(config, optimisation__max_epochs=1, generator__weight_decay=decay)
        train(one, tiny_interactions, tmp_path / str(decay))
        weights = load_file(tmp_path / str(decay) / "last.safetensors")
        names = ("generator.decoders.full.0.candidates", "meta.backbone.items.weight")
        norms[decay] = [float(weights[f"network.{name}"].norm()) for name in names]

    assert norms[50.0][0] < 0.7 * norms[None][0]
    assert norms[50.0][1] == pytest.approx(norms[None][1], rel=0.02)


def test_a_penalty_makes_what_is_generated_smaller(config, tiny_interactions, tmp_path):
    sizes = {}
    for penalty in (0.0, 100.0):
        one = changed(config, generator__delta_penalty=penalty)
        train(one, tiny_interactions, tmp_path / str(penalty))
        network = build_network(one, tiny_interactions.item_count).eval()
        checkpoint.load_best(tmp_path / str(penalty), network)
        split = split_of(one, tiny_interactions)
        samples = torch.from_numpy(ask(split, split.users, "validation", one.sample_length).samples)
        with torch.no_grad():
            residuals = network.residuals(network.embeddings(samples)[:, 0], Served("full"))
            sizes[penalty] = float(network.meta.classifier.delta_size(residuals))

    assert 0 < sizes[100.0] < 0.2 * sizes[0.0]


def test_a_run_is_ranked_under_all_conditions_with_samples_as_long_as_the_generator_sees(cloud_run, tiny_interactions):
    record = evaluate_run(cloud_run, tiny_interactions)

    split, config = split_of(record.config, tiny_interactions), record.config
    network = build_network(config, tiny_interactions.item_count).eval()
    checkpoint.load_best(cloud_run, network)
    questions = ask(split, split.asked("test"), "test", config.sample_length)
    served = next(each for each in network.served if str(each) == record.tested)
    own = rank_with_embeddings(network, questions, newest_embeddings(network, questions.samples), served)
    assert (record.ranks("own").full == own.full).all()
    # 10 items ago is within what is sent, and beyond what the device reads
    assert config.backbone.length < 10 < config.sample_length
    assert "stale-10" in record.answers
    width = config.generator.encoder_width
    assert record.sizes.generator > (tiny_interactions.item_count + 1) * width
