"""Variants are compared seed by seed and user by user, and only what is comparable is."""

import numpy as np
import pytest

from duet.evaluation.comparison import Variant, compare, group_runs, to_markdown
from duet.evaluation.intervals import mean_interval
from duet.evaluation.record import Answer, Dataset
from duet.protocol.errors import UnusableRun
from duet.training.config import DataOptions, GeneratorOptions, OptimisationOptions, TrainingConfig
from duet.training.ranking import Ranks
from tests.duet.evaluation.records import ITEMS, USERS, made_up, made_up_duet, random_ranks


def rows_by_label(records, **options):
    return {row.label: row for row in compare(records, **options)}


def test_differences_are_paired_by_seed_and_user():
    static = [made_up(seed=seed) for seed in (0, 1, 2)]
    duet = [made_up_duet(seed=seed) for seed in (2, 0, 1)]
    expected = np.mean(
        [
            next(run for run in duet if run.seed == seed).values("factors-r4", "uauc")
            - static[seed].values("shared", "uauc")
            for seed in (0, 1, 2)
        ],
        axis=0,
    )

    rows = rows_by_label([*duet[:2], *static, duet[2]])

    assert list(rows) == [f"duet-r4, {name}" for name in ("factors-r4", "factors-r2", "factors-r1", "shared")] + [
        "static"
    ]
    assert rows["duet-r4, factors-r4"].differences["uauc"] == mean_interval(expected)
    assert rows["duet-r4, factors-r4"].differences["uauc"][1] > 0.1
    assert rows["static"].differences is None
    assert {row.seeds for row in rows.values()} == {(0, 1, 2)}


def test_a_pairing_is_tighter_than_the_two_means_apart():
    ranks = random_ranks(0)
    better = Ranks(ranks.full, np.maximum(ranks.sampled - 1, 1), ranks.negatives)
    static, other = made_up(), made_up("other", answers={"shared": Answer.of(better)})

    paired = rows_by_label([static, other])["other"].differences["uauc"]
    apart = group_runs([other])["other"].interval("uauc")

    assert paired[0] == pytest.approx(1 / 99, rel=0.1)
    assert paired[2] - paired[1] < (apart[2] - apart[1]) / 10


def test_means_and_deviations_are_over_seeds():
    runs = [made_up(seed=seed) for seed in (0, 1)]
    means = [run.answers["shared"].metrics["hr@10"] for run in runs]

    (row,) = compare(runs)

    assert row.means["hr@10"] == pytest.approx(np.mean(means))
    assert row.deviations["hr@10"] == pytest.approx(abs(means[0] - means[1]) / 2**0.5)
    assert (row.seconds, row.epochs, row.positions_per_s) == (90.0, 4.5, 1500.0)
    assert compare(runs[:1])[0].deviations["hr@10"] == 0.0


@pytest.mark.parametrize("seeds", [(), (1,), (0, 2)], ids=["no baseline", "another seed", "one seed too few"])
def test_without_a_baseline_of_every_seed_there_is_no_difference(seeds):
    static = [made_up(seed=seed) for seed in seeds]

    rows = rows_by_label([made_up_duet(seed=0), made_up_duet(seed=1), *static])

    assert rows["duet-r4, factors-r4"].differences is None


def test_another_baseline_can_be_named():
    rows = rows_by_label([made_up(), made_up("capacity-matched", skills={"shared": 1})], baseline="capacity-matched")

    assert rows["static"].differences is not None
    assert rows["capacity-matched"].differences is None


def test_one_group_of_users_can_be_compared_alone():
    static, duet = (group_runs([run])[run.name] for run in (made_up(), made_up_duet()))
    values = duet.records[0].values("factors-r4", "uauc") - static.records[0].values("shared", "uauc")
    cold = np.arange(USERS) % 4 == 0

    assert duet.minus(static, "uauc", group="cold") == mean_interval(values[cold])


def test_seeds_with_users_of_their_own_are_compared_too_and_all_their_users_count():
    def worlds(make, **options):
        return [
            make(
                seed=seed,
                dataset=Dataset(name="world", users=USERS, evaluated=USERS, items=ITEMS, sha256=str(seed)),
                candidates=str(seed),
                **options,
            )
            for seed in (0, 1)
        ]

    static, duet = worlds(made_up), worlds(made_up_duet)
    differences = [
        d.values("factors-r4", "uauc") - s.values("shared", "uauc") for d, s in zip(duet, static, strict=True)
    ]

    row = rows_by_label([*static, *duet])["duet-r4, factors-r4"]

    assert row.differences["uauc"] == mean_interval(np.concatenate(differences))


@pytest.mark.parametrize(
    "other",
    [
        {"candidates": "xyz"},
        {"users": USERS - 1},
        {"part": "validation"},
        {"dataset": Dataset(name="made-up", users=USERS, evaluated=USERS, items=ITEMS, sha256="cd")},
    ],
    ids=["candidates", "users", "part", "data"],
)
def test_runs_on_different_questions_are_refused(other):
    with pytest.raises(UnusableRun, match="users or candidate lists") as caught:
        compare([made_up(), made_up_duet(**other)])

    assert caught.value.path == "runs/duet-r4-s0"
    assert "one data set" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "seed", "settings"),
    [
        ("duet", 0, {}),
        ("duet", 1, {"optimisation": OptimisationOptions(learning_rate=0.1)}),
        ("static", 1, {"optimisation": OptimisationOptions(patience=9)}),
    ],
    ids=["same seed twice", "another setting", "another setting of static"],
)
def test_runs_that_are_not_seeds_of_one_another_are_never_averaged(name, seed, settings):
    other = made_up(name, seed, config=TrainingConfig(model=name, seed=seed, **settings))

    with pytest.raises(UnusableRun, match=f"averaged with runs/{name}-s0"):
        compare([made_up(name), other])


def test_seeds_may_have_read_the_same_log_from_different_places():
    runs = [
        made_up("duet", seed, config=TrainingConfig(seed=seed, data=DataOptions(source=f"/disk{seed}/u.data")))
        for seed in (0, 1)
    ]
    runs += [
        made_up(
            "static",
            seed,
            config=TrainingConfig(model="static", seed=seed, generator=GeneratorOptions(rank=1 + seed)),
        )
        for seed in (0, 1)
    ]

    assert [row.seeds for row in compare(runs)] == [(0, 1), (0, 1)]


def test_a_variant_is_first_met_under_the_best_condition_it_has():
    variant = group_runs([made_up_duet(seed=1), made_up_duet(seed=0)])["duet-r4"]

    assert (variant.condition, variant.seeds, variant.label) == ("factors-r4", (0, 1), "duet-r4, factors-r4")
    assert variant.under("swapped") == Variant("duet-r4", "swapped", variant.records)
    assert group_runs([made_up()])["static"].label == "static"


def test_the_table_is_markdown_with_differences_and_deviations_where_there_are_any():
    runs = [make(seed=seed) for make in (made_up, made_up_duet) for seed in (0, 1)]
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
