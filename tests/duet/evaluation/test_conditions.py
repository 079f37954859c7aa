"""Every condition holds the parameters that it says, on the device's newest sample, and own ones are the best."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duet.data.windows import evaluation_samples, last_positions
from duet.evaluation.comparison import Variant
from duet.evaluation.conditions import (
    describe,
    evaluate_run,
    newest_embeddings,
    partners,
    rank_with_embeddings,
)
from duet.evaluation.quantised import rank_quantised
from duet.evaluation.record import METRICS
from duet.networks.duet_network import SHARED, Served
from duet.networks.update_size import update_bytes
from duet.protocol.errors import DatasetTooSmall, UnusableRun
from duet.protocol.representation import Dtype, Representation
from duet.training import checkpoint
from duet.training.config import DataOptions, GeneratorOptions, TrainingConfig
from duet.training.loop import train
from duet.training.networks import build_network
from duet.training.ranking import ask, rank, ranks_of_scores
from duet.training.tasks import split_of
from tests.duet.data.logs import numbered_log

SERVED = {"factors-r3": Served("factors", 3), "full": Served("full"), "shared": SHARED}


@pytest.fixture(scope="module")
def network(tiny_run, tiny_config, tiny_interactions):
    network = build_network(tiny_config, tiny_interactions.item_count)
    checkpoint.load_best(tiny_run, network)
    return network.eval()


@pytest.fixture(scope="module")
def split(tiny_config, tiny_interactions):
    return split_of(tiny_config, tiny_interactions)


@pytest.fixture(scope="module")
def questions(split, tiny_config):
    return ask(split, split.asked("test"), "test", tiny_config.backbone.length)


@pytest.fixture(scope="module")
def record(tiny_run, tiny_interactions):
    return evaluate_run(tiny_run, tiny_interactions, grid="paper", name="duet")


def assert_same_ranks(found, expected):
    for name in ("full", "sampled", "negatives"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_run_answers_for_all_it_serves_for_smaller_ranks_and_in_every_test(record):
    assert list(record.answers) == [
        *("factors-r3", "factors-r2", "factors-r1", "full", "factors-r3-int8", "full-int8", "shared"),
        *("stale-1", "stale-2", "stale-5", "mean", "swapped"),
    ]


@pytest.mark.parametrize("condition", SERVED)
def test_what_is_served_is_ranked_with_the_best_epoch(record, network, questions, condition):
    expected = rank(network, questions, SERVED[condition])

    assert_same_ranks(record.ranks(condition), expected)
    assert record.answers[condition].metrics == {name: m(expected).mean() for name, m in METRICS.items()}


def test_a_record_says_what_was_ranked_and_how_it_came_about(
    record, tiny_run, tiny_config, tiny_interactions, split, questions
):
    progress, history = checkpoint.read_progress(tiny_run), checkpoint.read_history(tiny_run)

    assert (record.grid, record.name, record.seed, record.part) == ("paper", "duet", 0, "test")
    assert record.config == tiny_config
    assert record.dataset.evaluated == len(split.asked("test")) == record.dataset.users == tiny_interactions.user_count
    assert record.dataset.sha256 == tiny_interactions.fingerprint()
    assert record.candidates == questions.candidates_hash
    assert record.training.epochs == progress.epoch == len(history)
    assert record.training.best_epoch == progress.best_epoch
    assert record.training.history == pytest.approx([epoch.value for epoch in history], abs=1e-6)
    assert record.training.positions_per_s > 0
    assert {"commit", "hardware", "versions"} == record.provenance.keys()


def test_the_tests_start_from_the_head_that_validation_prefers(record, tiny_run):
    best = checkpoint.read_history(tiny_run)[record.training.best_epoch - 1].validation

    assert record.tested == max(("factors-r3", "full"), key=best.get)


@pytest.mark.parametrize("served", [Served("factors", 3), Served("factors", 1), Served("full")], ids=str)
def test_own_embeddings_give_what_the_network_gives(network, questions, served):
    own = newest_embeddings(network, questions.samples)

    assert_same_ranks(rank_with_embeddings(network, questions, own, served), rank(network, questions, served))


@pytest.mark.parametrize("condition", ["stale-1", "stale-5", "mean", "swapped"])
def test_only_the_parameters_are_another_moments_or_another_users(record, network, split, questions, condition):
    length, served = questions.samples.shape[1], SERVED[record.tested]
    mean = newest_embeddings(network, questions.samples).mean(dim=0, keepdim=True)
    given = partners(len(split.asked("test")))

    for user in range(0, len(split.asked("test")), 7):
        source = given[user] if condition == "swapped" else user
        lag = int(condition.partition("-")[2]) if condition.startswith("stale") else 0
        old = evaluation_samples(split, split.asked("test")[[source]], "test", length, lag=lag).astype(np.int64)
        embedding = mean if condition == "mean" else newest_embeddings(network, old)
        newest = questions.samples[[user]]
        with torch.inference_mode():
            last = torch.from_numpy(last_positions(newest.astype(np.int32)))
            states = network.meta.backbone.encode(torch.from_numpy(newest)).flatten(0, 1)[last]
            scores = network.meta.scores(states, network.residuals(embedding, served))

        expected = ranks_of_scores(scores.numpy(), questions, slice(user, user + 1))

        assert record.ranks(condition).full[user] == expected.full[0]
        assert record.ranks(condition).sampled[user] == expected.sampled[0]


@given(st.integers(2, 300))
def test_a_swap_gives_everybody_somebody_elses_parameters_and_each_set_once(users):
    given_to = partners(users)

    assert sorted(given_to) == list(range(users))
    assert not (given_to == np.arange(users)).any()
    assert given_to.tolist() == partners(users).tolist()


def test_sizes_say_what_lies_on_the_device_in_the_cloud_and_in_a_package(record, network):
    sizes, table = record.sizes, network.meta.table

    assert sizes.static == sum(p.numel() for p in network.meta.backbone.parameters())
    assert sizes.dynamic == sum(layer.outputs * (layer.inputs + 1) for layer in table)
    assert sizes.static + sizes.dynamic + sizes.generator == sum(p.numel() for p in network.parameters())
    assert list(sizes.update) == ["factors-r3", "factors-r2", "factors-r1", "full"]
    assert sizes.update["factors-r2"]["int8"] == table.package_bytes(Representation.parse("factors-r2-int8"))
    assert sizes.update["full"]["float32"] == table.package_bytes(Representation.parse("full-float32"))


def test_the_cold_users_are_the_quarter_with_the_fewest_interactions(record, split, tiny_interactions):
    lengths = np.diff(tiny_interactions.offsets)[split.asked("test")]
    cold = record.group("cold")

    assert cold.sum() == len(split.asked("test")) // 4
    assert lengths[cold].max() <= lengths[~cold].min()


def test_unseen_users_are_asked_too_and_marked(record, split):
    users = split.asked("test")

    assert record.dataset.evaluated == len(users) == len(split.evaluated("test")) + len(split.unseen)
    np.testing.assert_array_equal(users[record.group("unseen")], split.unseen)
    assert len(split.unseen)


@pytest.mark.parametrize("model", ["static", "capacity-matched"])
def test_a_baseline_has_one_condition_and_lives_on_the_device(tiny_config, tiny_interactions, tmp_path, model):
    config = tiny_config.model_copy(
        update={"model": model, "optimisation": tiny_config.optimisation.model_copy(update={"max_epochs": 1})}
    )
    train(config, tiny_interactions, tmp_path)

    record = evaluate_run(tmp_path, tiny_interactions)

    network = build_network(config, tiny_interactions.item_count)
    assert list(record.answers) == ["shared"]
    assert (record.tested, record.sizes.update, record.sizes.generator) == (None, {}, 0)
    assert record.sizes.static + record.sizes.dynamic == sum(p.numel() for p in network.parameters())
    assert record.name == model


@pytest.mark.parametrize(("model", "served"), [("film", "scale-shift"), ("concatenated", "shift"), ("apg", "core")])
def test_a_rival_is_tested_for_personalisation_and_its_update_is_sized(
    tiny_config, tiny_interactions, tmp_path, model, served
):
    config = tiny_config.model_copy(update={"model": model}).with_max_epochs(1)
    train(config, tiny_interactions, tmp_path)

    record = evaluate_run(tmp_path, tiny_interactions)

    sizes, network = record.sizes, build_network(config, tiny_interactions.item_count)
    assert list(record.answers) == [served, "shared", "stale-1", "stale-2", "stale-5", "mean", "swapped"]
    assert (record.name, record.tested, record.served) == (model, served, (served, "shared"))
    assert sizes.update == {
        served: {dtype.name.lower(): update_bytes(network.generator.update_arrays(), dtype) for dtype in Dtype}
    }
    assert sizes.static + sizes.dynamic + sizes.generator == sum(p.numel() for p in network.parameters())
    kept = sum(p.numel() for p in network.generator.projections) if model == "apg" else 0
    assert sizes.static == kept + sum(p.numel() for p in network.meta.backbone.parameters())


@pytest.mark.parametrize("condition", ["factors-r3", "full"])
@pytest.mark.parametrize("dtype", Dtype)
def test_parameters_that_went_through_bytes_rank_like_those_that_did_not(network, questions, condition, dtype):
    own = newest_embeddings(network, questions.samples)
    expected = rank(network, questions, SERVED[condition])

    ranks = rank_quantised(network, questions, own, SERVED[condition], dtype)

    # the coarser the numbers, the more items of a small catalogue change places
    moved = np.abs(ranks.full - expected.full)
    assert np.quantile(moved, 0.9) <= {Dtype.FLOAT32: 0, Dtype.FLOAT16: 1, Dtype.INT8: 3}[dtype]
    assert (moved > 0).any() or dtype is not Dtype.INT8


def test_int8_is_answered_as_the_package_says(record, network, questions):
    own = newest_embeddings(network, questions.samples)

    assert_same_ranks(
        record.ranks("factors-r3-int8"), rank_quantised(network, questions, own, SERVED["factors-r3"], Dtype.INT8)
    )


@pytest.mark.parametrize(
    ("heads", "rank", "name"),
    [(("factors",), 8, "duet-r8"), (("full",), 4, "duet-full"), (("factors", "full"), 4, "duet-r4+full")],
)
def test_a_run_outside_of_a_grid_is_named_after_its_configuration(heads, rank, name):
    assert describe(TrainingConfig(generator=GeneratorOptions(heads=heads, rank=rank))) == name


def test_the_two_parts_ask_for_different_items(record, tiny_run, tiny_interactions):
    validation = evaluate_run(tiny_run, tiny_interactions, "validation")

    assert validation.part == "validation"
    assert validation.candidates != record.candidates


def test_a_run_is_not_ranked_on_other_data(tiny_run):
    with pytest.raises(UnusableRun, match="other content"):
        evaluate_run(tiny_run, numbered_log([9] * 10))


def test_a_single_user_has_nobody_to_swap_with(tiny_config, tmp_path):
    log = numbered_log([30])
    config = tiny_config.model_copy(update={"data": DataOptions()})
    train(config, log, tmp_path)

    with pytest.raises(DatasetTooSmall, match="swap"):
        evaluate_run(tmp_path, log)


@pytest.mark.slow
def test_in_a_world_with_tastes_own_parameters_beat_another_users(tiny_config, tiny_interactions, tmp_path):
    config = tiny_config.model_copy(
        update={
            "data": DataOptions(source="synthetic:tiny"),
            "generator": GeneratorOptions(embedding_dim=8, heads=("full",), decoders=1, dropout=0.0),
            "optimisation": tiny_config.optimisation.model_copy(
                # fresh parameters only, so that few epochs make them personal
                update={"batch_size": 32, "max_epochs": 12, "patience": 12, "stale_share": 0.0}
            ),
        }
    )
    train(config, tiny_interactions, tmp_path)

    own = Variant("duet-full", "full", (evaluate_run(tmp_path, tiny_interactions),))

    assert own.minus(own.under("swapped"), "uauc")[1] > 0
    assert own.minus(own.under("stale-5"), "uauc")[0] > 0
