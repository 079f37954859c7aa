"""Accuracy on unseen devices: conditions, and differences that are paired by seed and device."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from duet.evaluation.classification import DeviceAnswers, answer_devices, compare_devices, to_markdown
from duet.evaluation.conditions import partners
from duet.networks.duet_network import SHARED
from duet.protocol.errors import UnusableRun
from duet.training import checkpoint
from duet.training.classification import ask_pictures, right_answers, sample_embeddings
from duet.training.loop import train
from duet.training.networks import build_network


@pytest.fixture(scope="module")
def answers(digits_run, digit_devices):
    return answer_devices(digits_run, digit_devices)


def made(name, seed, right, *, tested=None, fingerprint="f"):
    labels = np.tile([0, 1], (2, 1))
    return DeviceAnswers(name, seed, fingerprint, labels, right, tested, seconds=60.0, best_epoch=1)


def grid(*rows):
    return np.array(rows, bool)


def test_a_run_is_measured_under_every_condition(answers):
    generated = ["factors-r3", "factors-r2", "factors-r1", "full"]

    assert list(answers.right) == [*generated, "shared", "stale-4", "stale-8", "stale-16", "mean", "swapped"]
    assert answers.tested in ("factors-r3", "full")
    assert {right.shape for right in answers.right.values()} == {(20, 16)}


def test_swapped_parameters_are_those_of_another_device(digits_run, digits_config, digit_devices, tmp_path):
    run = shutil.copytree(digits_run, tmp_path / "run")
    weights = load_file(run / "best.safetensors")
    torch.manual_seed(0)
    for name, tensor in weights.items():
        if name.startswith(("generator.", "encoder.")):  # lively enough that devices differ
            tensor += torch.randn_like(tensor)
    save_file(weights, run / "best.safetensors")
    network = build_network(digits_config, 10).eval()
    checkpoint.load_best(run, network)
    answers, questions = answer_devices(run, digit_devices), ask_pictures(digit_devices.test, 6)
    (served,) = [each for each in network.served if str(each) == answers.tested]
    others = sample_embeddings(network, questions.samples[partners(20)])

    expected = right_answers(network, questions, served, embeddings=others)

    np.testing.assert_array_equal(answers.right["swapped"], expected)
    assert (answers.right["swapped"] != answers.right[answers.tested]).any()
    assert (answers.right["stale-16"] != answers.right[answers.tested]).any()


def test_shared_answers_are_those_of_the_network_without_a_generator(answers, digits_config, digits_run, digit_devices):
    network = build_network(digits_config, 10).eval()
    checkpoint.load_best(digits_run, network)
    following = torch.from_numpy(ask_pictures(digit_devices.test, 6).following)

    with torch.no_grad():
        logits = network.meta.scores(network.meta.backbone.encode(following).flatten(0, 1))

    expected = logits.argmax(1).view(20, 16).numpy() == answers.labels
    np.testing.assert_array_equal(answers.right[str(SHARED)], expected)


@pytest.mark.parametrize("model", ["static", "capacity-matched"])
def test_baselines_train_and_are_measured(model, digits_config, digit_devices, tmp_path):
    config = digits_config.model_copy(update={"model": model}).with_max_epochs(1)
    train(config, digit_devices, tmp_path / "run")

    answers = answer_devices(tmp_path / "run", digit_devices, "validation")

    assert (answers.name, list(answers.right), answers.tested) == (model, ["shared"], None)


@pytest.mark.parametrize(("model", "served"), [("film", "scale-shift"), ("concatenated", "shift"), ("apg", "core")])
def test_rivals_train_and_are_tested_for_personalisation_too(model, served, digits_config, digit_devices, tmp_path):
    config = digits_config.model_copy(update={"model": model}).with_max_epochs(1)
    train(config, digit_devices, tmp_path / "run")

    answers = answer_devices(tmp_path / "run", digit_devices, "validation")

    assert (answers.name, answers.tested) == (model, served)
    assert list(answers.right) == [served, "shared", "stale-4", "stale-8", "stale-16", "mean", "swapped"]


def test_differences_are_of_devices_and_classes_are_weighed_alike():
    static = made("static", 0, {"shared": grid([1, 0], [0, 0])})
    generated = made(
        "duet-r4", 0, {"factors-r4": grid([1, 1], [1, 0]), "swapped": grid([1, 0], [1, 0])}, tested="factors-r4"
    )

    baseline, own, swapped = compare_devices([static, generated])

    assert (baseline.accuracy, baseline.by_class, baseline.to_static) == ((0.25, 0.0), (0.25, 0.0), None)
    assert own.to_static[0] == pytest.approx(0.5)
    assert own.from_own is None
    assert swapped.from_own[0] == pytest.approx(0.25)
    assert swapped.by_class[0] == pytest.approx(0.5)
    assert "| duet-r4, factors-r4 | 1 | 0.7500 |" in to_markdown([baseline, own, swapped])


def test_devices_of_every_seed_count():
    runs = [
        made(name, seed, {"shared": grid(row, row)}, fingerprint=str(seed))
        for name, seed, row in [
            ("static", 0, [0, 0]),
            ("static", 1, [1, 1]),
            ("capacity-matched", 0, [1, 0]),
            ("capacity-matched", 1, [1, 1]),
        ]
    ]

    _, matched = compare_devices(runs)

    assert matched.seeds == (0, 1)
    assert matched.accuracy == (pytest.approx(0.75), pytest.approx(np.std([0.5, 1], ddof=1)))
    assert matched.to_static[0] == pytest.approx(0.25)


def test_runs_that_cannot_be_compared_are_refused():
    right = {"shared": grid([1, 0], [0, 0])}

    with pytest.raises(UnusableRun, match="twice"):
        compare_devices([made("static", 0, right), made("static", 0, right)])
    with pytest.raises(UnusableRun, match="devices are not those"):
        compare_devices([made("static", 0, right), made("duet-r4", 0, right, fingerprint="other")])
