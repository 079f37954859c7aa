"""On a world where devices differ, generated parameters learn what one classifier for all cannot."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from duet.data.synthetic import PRESETS, SyntheticWorld
from duet.data.windows import last_positions
from duet.evaluation.comparison import compare
from duet.evaluation.conditions import evaluate_run
from duet.evaluation.intervals import mean_interval
from duet.networks.duet_network import SHARED, Served
from duet.training import checkpoint
from duet.training.config import BackboneOptions, GeneratorOptions, OptimisationOptions, TrainingConfig
from duet.training.loop import train
from duet.training.networks import build_network
from duet.training.ranking import ask, rank, ranks_of_scores
from duet.training.tasks import split_of

pytestmark = pytest.mark.slow

RANK = 4


@pytest.fixture(scope="module")
def world():
    return SyntheticWorld(replace(PRESETS["tiny"], devices=800)).interactions()


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """A run of DUET and one of the static model, equal in all else."""
    folders = {}
    for model in ("static", "duet"):
        config = TrainingConfig(
            model=model,
            backbone=BackboneOptions(length=20, width=16, blocks=1, dropout=0.1),
            generator=GeneratorOptions(embedding_dim=16, rank=RANK, heads=("factors", "full"), decoders=2, dropout=0.1),
            # the few epochs go to fresh parameters, which is what is measured here
            optimisation=OptimisationOptions(
                batch_size=32, max_epochs=12, patience=12, learning_rate=5e-3, stale_share=0.0
            ),
        )
        folders[model] = tmp_path_factory.mktemp("learning") / model
        train(config, world, folders[model])
    return folders


def test_generated_parameters_rank_better_than_shared_ones_and_than_the_static_model(world, runs):
    evaluated = [evaluate_run(folder, world) for folder in runs.values()]
    duet = next(record for record in evaluated if record.config.model == "duet")

    rows = {row.label: row for row in compare(evaluated)}

    for served in (f"factors-r{RANK}", "full"):
        gain, low, _ = mean_interval(duet.values(served, "ndcg@10") - duet.values("shared", "ndcg@10"))
        assert low > 0, f"{served} over shared: {gain:+.4f}"
        gain, low, _ = rows[f"duet-r{RANK}+full, {served}"].differences["ndcg@10"]
        assert low > 0, f"{served} over static: {gain:+.4f}"


def test_own_parameters_rank_better_than_those_of_another_device(world, runs):
    config = checkpoint.read_run_config(runs["duet"])
    network = build_network(config, world.item_count).eval()
    checkpoint.load_best(runs["duet"], network)
    split = split_of(config, world)
    questions = ask(split, split.users, "test", config.backbone.length)
    samples = torch.from_numpy(questions.samples)
    positions = torch.from_numpy(last_positions(questions.samples.astype(np.int32)))
    another = torch.roll(torch.arange(len(samples)), 1)

    for served in (Served("factors", RANK), Served("full")):
        with torch.no_grad():
            states, _ = network.condition(samples, positions, SHARED)
            embeddings = network.embeddings(samples).flatten(0, 1)[positions]
            quality = [
                ranks_of_scores(
                    network.meta.scores(states, network.residuals(z, served)).numpy().copy(), questions
                ).ndcg()
                for z in (embeddings, embeddings[another])
            ]
        gain, low, _ = mean_interval(quality[0] - quality[1])
        assert low > 0, f"{served}: {gain:+.4f}"


def test_more_rank_is_not_worse(world, runs):
    config = checkpoint.read_run_config(runs["duet"])
    network = build_network(config, world.item_count)
    checkpoint.load_best(runs["duet"], network)
    split = split_of(config, world)
    questions = ask(split, split.users, "test", config.backbone.length)

    quality = [rank(network, questions, Served("factors", r)).ndcg() for r in range(1, RANK + 1)]

    gain, low, high = mean_interval(quality[-1] - quality[0])
    assert high > 0, f"rank {RANK} over rank 1: {gain:+.4f} [{low:+.4f}, {high:+.4f}]"
    shared = rank(network, questions, SHARED).ndcg()
    assert mean_interval(quality[0] - shared)[0] > 0
