"""Staged training: first the Universal Meta Network, then the generator on it; a stopped run goes on in its stage."""

import os

import pytest
import torch
from safetensors.torch import load_file

from duet.evaluation.conditions import evaluate_run
from duet.protocol.errors import UnusableRun
from duet.training import checkpoint
from duet.training.config import TrainingConfig
from duet.training.loop import train
from tests.duet.training.test_loop import assert_same_run, changed, history, stop_after

EPOCHS = 2


@pytest.fixture(scope="module")
def config(tiny_config):
    return changed(
        tiny_config, optimisation__schedule="staged", optimisation__max_epochs=EPOCHS, optimisation__patience=9
    )


@pytest.fixture(scope="module")
def frozen(config, tiny_interactions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen")
    train(config, tiny_interactions, folder)
    return folder


def part(tensors, prefix):
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_each_stage_has_its_epochs_and_validates_what_it_trains(frozen):
    entries = history(frozen)

    assert [list(entry["validation"]) for entry in entries] == [["shared"]] * 2 + [["factors-r3", "full", "shared"]] * 2
    assert [entry["value"] for entry in entries[:2]] == [entry["validation"]["shared"] for entry in entries[:2]]
    progress = checkpoint.read_progress(frozen)
    assert (progress.epoch, progress.meta_epochs, progress.finished) == (4, 2, True)
    assert progress.best_epoch > 2


def test_the_first_stage_is_the_training_of_a_static_model_bit_for_bit(config, tiny_interactions, tmp_path, frozen):
    static = changed(config, model="static", optimisation__schedule="joint")

    train(static, tiny_interactions, tmp_path)

    assert [(entry["loss"], entry["value"]) for entry in history(tmp_path)] == [
        (entry["loss"], entry["value"]) for entry in history(frozen)[:EPOCHS]
    ]
    trained = load_file(frozen / "best.safetensors")
    assert all(torch.equal(trained[name], tensor) for name, tensor in load_file(tmp_path / "best.safetensors").items())


def test_the_second_stage_trains_the_generator_alone(config, tiny_interactions, tmp_path, frozen):
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_interactions, tmp_path, observer=stop_after(EPOCHS))

    between, after = (load_file(folder / "last.safetensors") for folder in (tmp_path, frozen))

    assert not part(between, "optimizer.")
    assert not part(after, "optimizer.meta.")
    changes = {name for name, tensor in between.items() if not torch.equal(tensor, after[name])}
    generating = {name for name in between if name.startswith(("network.generator.", "network.encoder."))}
    assert changes == generating
    shared = [entry["validation"]["shared"] for entry in history(frozen)]
    assert set(shared[EPOCHS:]) == {max(shared[:EPOCHS])}


def test_the_universal_meta_network_may_go_on_learning_slowly(config, tiny_interactions, tmp_path, frozen):
    slow = changed(config, optimisation__meta_learning_rate=0.01)
    train(slow, tiny_interactions, tmp_path)

    ours, theirs = (load_file(folder / "last.safetensors") for folder in (tmp_path, frozen))

    name = "network.meta.backbone.positions.weight"
    moved = (ours[name] - theirs[name]).norm()
    assert 0 < moved < 0.05 * theirs[name].norm()
    assert part(ours, "optimizer.meta.")


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_stopping_after_every_epoch_changes_nothing(config, tiny_interactions, tmp_path, rate):
    config = changed(config, optimisation__meta_learning_rate=rate)
    train(config, tiny_interactions, tmp_path / "whole")

    for epoch in range(1, 2 * EPOCHS):
        torch.manual_seed(epoch + 1000)
        with pytest.raises(KeyboardInterrupt):
            train(config, tiny_interactions, tmp_path / "parts", observer=stop_after(epoch))
    train(config, tiny_interactions, tmp_path / "parts")

    assert_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("write", range(4))
def test_stopping_at_any_write_between_the_stages_changes_nothing(
    config, tiny_interactions, tmp_path, monkeypatch, frozen, write
):
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_interactions, tmp_path, observer=stop_after(EPOCHS - 1))
    calls, replace_file = iter(range(100)), os.replace

    def stop(source, target, **options):
        if next(calls) == write:
            raise OSError(28, "No space left on device")
        replace_file(source, target, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stop)
        with pytest.raises(OSError, match="No space left"):
            train(config, tiny_interactions, tmp_path)

    train(config, tiny_interactions, tmp_path)
    assert_same_run(tmp_path, frozen)


def test_each_stage_stops_when_it_no_longer_improves(config, tiny_interactions, tmp_path):
    config = changed(config, optimisation__max_epochs=50, optimisation__patience=2, optimisation__learning_rate=1e-9)

    progress = train(config, tiny_interactions, tmp_path)

    assert progress.finished
    assert progress.meta_epochs < 20
    assert progress.epoch == progress.best_epoch + 2 < 40
    assert progress.best_epoch > progress.meta_epochs


def test_between_the_stages_there_is_nothing_to_evaluate(config, tiny_interactions, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_interactions, tmp_path, observer=stop_after(EPOCHS))

    with pytest.raises(UnusableRun, match="no such checkpoint"):
        evaluate_run(tmp_path, tiny_interactions)


def test_more_epochs_go_to_the_second_stage(config, tiny_interactions, tmp_path):
    train(changed(config, optimisation__max_epochs=1), tiny_interactions, tmp_path)

    progress = train(config, tiny_interactions, tmp_path)

    assert (progress.meta_epochs, progress.epoch) == (1, 1 + EPOCHS)


@pytest.mark.parametrize("model", ["static", "capacity-matched"])
def test_a_baseline_has_one_part_and_no_stages(model):
    with pytest.raises(ValueError, match="schedule staged is of model duet"):
        TrainingConfig.model_validate({"model": model, "optimisation": {"schedule": "staged"}})
