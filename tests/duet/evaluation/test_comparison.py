"""Variants are compared seed by seed and user by user, and only what is comparable is."""

from pathlib import Path

import numpy as np
import pytest

from duet.evaluation.comparison import METRICS, EvaluatedRun, compare, evaluate_run, to_markdown
from duet.evaluation.intervals import mean_interval
from duet.networks.duet_network import SHARED, Served
from duet.protocol.errors import UnusableRun
from duet.training import checkpoint
from duet.training.checkpoint import Progress
from duet.training.config import DataOptions, GeneratorOptions, OptimisationOptions, TrainingConfig
from duet.training.loop import split_of
from duet.training.networks import build_network
from duet.training.ranking import ask, rank
from tests.duet.data.logs import numbered_log

USERS = 80


def evaluated(model, seed, *, gain=0.0, served=SHARED, users=USERS, candidates="abc", **settings):
    """Make up a run: what each user's metrics are depends on the seed, the gain and the model."""
    random = np.random.default_rng([seed, len(model)])
    return EvaluatedRun(
        folder=Path(f"runs/{model}-{seed}"),
        config=TrainingConfig(model=model, seed=seed, **settings),
        progress=Progress(epoch=9, best_epoch=4 + seed, seconds=60.0 * (seed + 1), finished=True),
        served=served,
        users=np.arange(users),
        metrics={name: random.random(users) + gain for name in METRICS},
        candidates=candidates,
        positions_per_s=1000.0 * (seed + 1),
    )


def test_differences_are_paired_by_seed_and_user():
    static = [evaluated("static", seed) for seed in (0, 1, 2)]
    duet = [evaluated("duet", seed, gain=0.5, served=Served("factors", 4)) for seed in (2, 0, 1)]
    by_seed = {run.config.seed: run for run in static}
    expected = np.mean([run.metrics["uauc"] - by_seed[run.config.seed].metrics["uauc"] for run in duet], axis=0)

    first, second = compare([*duet[:2], *static, duet[2]])

    assert (first.label, second.label) == ("duet r4, factors-r4", "static")
    assert first.differences["uauc"] == mean_interval(expected)
    assert first.differences["uauc"][1] > 0.3
    assert second.differences is None
    assert first.seeds == second.seeds == (0, 1, 2)


def test_a_pairing_is_tighter_than_the_two_means_apart():
    static = evaluated("static", 0)
    better = EvaluatedRun(
        **{
            **vars(static),
            "config": TrainingConfig(model="duet"),
            "served": Served("full"),
            "metrics": {name: values + 0.01 for name, values in static.metrics.items()},
        }
    )

    (_, row) = compare([static, better])

    assert row.differences["ndcg@10"] == pytest.approx((0.01, 0.01, 0.01))


def test_means_and_deviations_are_over_seeds():
    runs = [evaluated("static", seed) for seed in (0, 1)]
    means = [run.metrics["hr@10"].mean() for run in runs]

    (row,) = compare(runs)

    assert row.means["hr@10"] == pytest.approx(np.mean(means))
    assert row.deviations["hr@10"] == pytest.approx(abs(means[0] - means[1]) / 2**0.5)
    assert (row.seconds, row.epochs, row.positions_per_s) == (90.0, 4.5, 1500.0)
    assert compare(runs[:1])[0].deviations["hr@10"] == 0.0


@pytest.mark.parametrize("seeds", [(), (1,), (0, 2)], ids=["no baseline", "another seed", "one seed too few"])
def test_without_a_baseline_of_every_seed_there_is_no_difference(seeds):
    static = [evaluated("static", seed) for seed in seeds]

    rows = compare([evaluated("duet", 0), evaluated("duet", 1), *static])

    assert rows[0].differences is None


def test_another_baseline_can_be_named():
    rows = compare([evaluated("static", 0), evaluated("capacity-matched", 0, gain=0.1)], baseline="capacity-matched")

    assert rows[0].differences is not None
    assert rows[1].differences is None


@pytest.mark.parametrize(
    ("model", "settings", "served", "label"),
    [
        ("static", {}, SHARED, "static"),
        ("capacity-matched", {}, SHARED, "capacity-matched"),
        ("duet", {}, SHARED, "duet r4, shared"),
        ("duet", {"generator": GeneratorOptions(rank=8)}, Served("factors", 8), "duet r8, factors-r8"),
        ("duet", {"generator": GeneratorOptions(heads=("full",))}, Served("full"), "duet full, full"),
        (
            "duet",
            {"generator": GeneratorOptions(heads=("factors", "full"))},
            Served("factors", 4),
            "duet r4+full, factors-r4",
        ),
    ],
    ids=["static", "capacity-matched", "shared", "rank 8", "full", "both heads"],
)
def test_a_label_says_what_was_trained_and_what_is_served(model, settings, served, label):
    assert evaluated(model, 0, served=served, **settings).label == label


@pytest.mark.parametrize("other", [{"candidates": "xyz"}, {"users": USERS - 1}], ids=["candidates", "users"])
def test_runs_on_different_questions_are_refused(other):
    with pytest.raises(UnusableRun, match="users or candidate lists") as caught:
        compare([evaluated("static", 0), evaluated("duet", 0, **other)])

    assert caught.value.path == "runs/duet-0"
    assert "one data set" in caught.value.remedy


@pytest.mark.parametrize(
    ("model", "seed", "settings"),
    [
        ("duet", 0, {}),
        ("duet", 1, {"optimisation": OptimisationOptions(learning_rate=0.1)}),
        ("static", 1, {"optimisation": OptimisationOptions(patience=9)}),
    ],
    ids=["same seed twice", "another setting", "another setting of static"],
)
def test_runs_that_are_not_seeds_of_one_another_are_never_averaged(model, seed, settings):
    with pytest.raises(UnusableRun, match="would be averaged"):
        compare([evaluated(model, 0), evaluated(model, seed, **settings)])


def test_seeds_may_have_read_the_same_log_from_different_places():
    runs = [evaluated("duet", seed, data=DataOptions(source=f"/disk{seed}/u.data")) for seed in (0, 1)]
    runs += [evaluated("static", seed, generator=GeneratorOptions(rank=1 + seed)) for seed in (0, 1)]

    assert [row.seeds for row in compare(runs)] == [(0, 1), (0, 1)]


def test_the_table_is_markdown_with_differences_and_deviations_where_there_are_any():
    runs = [evaluated("static", seed) for seed in (0, 1)]
    runs += [evaluated("duet", seed, gain=0.25, served=Served("factors", 4)) for seed in (0, 1)]
    rows = compare(runs)

    lines = to_markdown(rows).splitlines()

    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1
    assert set(cells[1]) == {"---"}
    assert cells[2][:2] == ["static", "2"]
    assert cells[2][2] == f"{rows[0].means['ndcg@10']:.4f} ± {rows[0].deviations['ndcg@10']:.4f}"
    assert cells[2][7:9] == ["–", "–"]
    assert cells[3][7] == "{:+.4f} [{:+.4f}, {:+.4f}]".format(*rows[1].differences["ndcg@10"])
    assert cells[3][9:] == ["4", "1.5"]
    assert "±" not in to_markdown(compare(runs[:1]))


def test_a_run_is_ranked_with_its_best_epoch_for_everything_it_serves(tiny_run, tiny_config, tiny_interactions):
    network = build_network(tiny_config, tiny_interactions.item_count)
    checkpoint.load_best(tiny_run, network)
    split = split_of(tiny_config, tiny_interactions)
    questions = ask(split, split.users, "test", tiny_config.backbone.length)

    runs = evaluate_run(tiny_run, tiny_interactions)

    assert [str(run.served) for run in runs] == ["factors-r3", "full", "shared"]
    for run in runs:
        ranks = rank(network, questions, run.served)
        assert run.config == tiny_config
        assert run.users.tolist() == split.users.tolist()
        assert run.candidates == questions.candidates_hash
        assert run.metrics.keys() == METRICS.keys()
        np.testing.assert_array_equal(run.metrics["ndcg@10"], ranks.ndcg(10))
        np.testing.assert_array_equal(run.metrics["sampled_hr@10"], ranks.hit_rate(10, sampled=True))
        np.testing.assert_array_equal(run.metrics["uauc"], ranks.auc())
        assert run.progress == checkpoint.read_progress(tiny_run)
        assert run.positions_per_s > 0


def test_the_two_parts_ask_for_different_items(tiny_run, tiny_interactions):
    test, validation = (evaluate_run(tiny_run, tiny_interactions, part)[0] for part in ("test", "validation"))

    assert test.candidates != validation.candidates


def test_a_run_is_not_ranked_on_data_of_another_size(tiny_run):
    with pytest.raises(UnusableRun, match="other content"):
        evaluate_run(tiny_run, numbered_log([9] * 10))
