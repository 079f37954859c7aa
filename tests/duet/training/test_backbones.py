"""Every backbone learns: for held-out items of a small world it ranks better than popularity does."""

from dataclasses import replace

import numpy as np
import pytest

from duet.data.synthetic import PRESETS, SyntheticWorld
from duet.evaluation.intervals import mean_interval
from duet.networks.backbones import BACKBONES
from duet.training import checkpoint
from duet.training.config import BackboneOptions, GeneratorOptions, OptimisationOptions, TrainingConfig
from duet.training.loop import train
from duet.training.networks import build_network
from duet.training.ranking import ask, rank, ranks_of_scores
from duet.training.tasks import split_of

pytestmark = pytest.mark.long


def _popularity(split, questions):
    """NDCG@10 of ranking by how often an item was met in training."""
    data, counts = split.interactions, np.zeros(split.interactions.item_count, np.float32)
    for user in range(data.user_count):
        np.add.at(counts, data.sequence(user)[: split.train_lengths[user]] - 1, 1)
    return ranks_of_scores(np.tile(counts, (len(questions.targets), 1)), questions).ndcg()


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_a_trained_network_ranks_better_than_popularity(backbone, tmp_path):
    world = SyntheticWorld(replace(PRESETS["tiny"], devices=800)).interactions()
    config = TrainingConfig(
        backbone=BackboneOptions(name=backbone, length=20, width=16, blocks=1, dropout=0.1),
        generator=GeneratorOptions(embedding_dim=16, rank=4, decoders=2, dropout=0.1),
        optimisation=OptimisationOptions(
            loss="sampled-softmax", sampled_negatives=32, batch_size=32, learning_rate=1e-2, max_epochs=6
        ),
    )
    train(config, world, tmp_path / "run")
    network = build_network(config, world.item_count)
    checkpoint.load_best(tmp_path / "run", network)
    split = split_of(config, world)
    questions = ask(split, split.users, "test", config.backbone.length)

    ndcg = rank(network, questions, network.served[0]).ndcg()

    gain, low, _ = mean_interval(ndcg - _popularity(split, questions))
    assert low > 0.01, f"{gain:+.4f}"
