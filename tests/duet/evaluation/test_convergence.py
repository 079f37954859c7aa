"""Convergence is counted to a target that all reach, and roughness from there on."""

import pytest

from duet.evaluation.comparison import group_runs
from duet.evaluation.convergence import converge
from duet.evaluation.record import Training
from tests.duet.evaluation.records import made_up, made_up_duet


def run(name, history, *, seed=0, meta_epochs=0):
    training = Training(
        seconds=1.0, epochs=len(history), best_epoch=1, positions_per_s=1.0, history=history, meta_epochs=meta_epochs
    )
    return made_up_duet(name, seed, training=training)


def test_epochs_count_to_the_lowest_best_and_roughness_starts_there():
    found = converge(
        group_runs([run("quick", (0.1, 0.2, 0.19, 0.2)), run("slow", (0.05, 0.1, 0.15, 0.19)), made_up("static")])
    )

    quick, slow = found
    assert (quick.variant.name, slow.variant.name) == ("quick", "slow")
    assert (quick.best, slow.best) == (0.2, 0.19)
    # 95 % of 0.19 is 0.1805
    assert (quick.epochs, slow.epochs) == (2, 4)
    assert quick.roughness == pytest.approx(0.01)
    assert slow.roughness != slow.roughness


def test_seeds_are_averaged():
    (found,) = converge(group_runs([run("a", (0.2, 0.1)), run("a", (0.1, 0.2), seed=1)]))

    assert found.epochs == 1.5
    assert found.best == 0.2
    assert found.roughness == pytest.approx(0.1)


def test_runs_of_two_stages_are_left_out():
    assert converge(group_runs([run("staged", (0.1, 0.2), meta_epochs=1), made_up("static")])) == []
