"""A run that is stopped and resumed, wherever it was stopped, ends bit for bit like one that was not."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from duet.data.splits import leave_one_out
from duet.networks.duet_network import SHARED
from duet.protocol.errors import DivergedTraining, UnusableRun
from duet.training import checkpoint
from duet.training.config import TrainingConfig
from duet.training.loop import Observer, train
from duet.training.networks import build_network
from duet.training.ranking import ask, rank
from duet.training.tasks import split_of
from tests.duet.data.logs import numbered_log

EPOCHS = 3
LONGER = {"backbone__length": 3, "generator__length": 11, "generator__encoder": "sasrec", "generator__encoder_width": 6}
TIMINGS = {"train_s", "validation_s"}


def changed(config, **settings):
    """Change settings given as ``section__name=value``, or ``name=value`` at the top."""
    document = config.model_dump()
    for key, value in settings.items():
        *section, name = key.split("__")
        (document[section[0]] if section else document)[name] = value
    return TrainingConfig.model_validate(document)


@pytest.fixture(scope="module")
def config(tiny_config):
    return changed(tiny_config, optimisation__max_epochs=EPOCHS, optimisation__patience=9)


@pytest.fixture(scope="module")
def uninterrupted(config, tiny_interactions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(config, tiny_interactions, folder)
    return folder


def assert_same_run(folder, expected):
    """Compare all that a run leaves, but for how long it took."""
    assert (folder / "config.yaml").read_text() == (expected / "config.yaml").read_text()
    assert (folder / "best.safetensors").read_bytes() == (expected / "best.safetensors").read_bytes()
    ours, theirs = (load_file(path / "last.safetensors") for path in (folder, expected))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.numpy().tobytes() == theirs[name].numpy().tobytes(), name
    assert history(folder) == history(expected)
    progress = [replace(checkpoint.read_progress(path), seconds=0) for path in (folder, expected)]
    assert progress[0] == progress[1]
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def history(folder):
    entries = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key not in TIMINGS} for entry in entries]


def stop_after(epoch, step=None):
    """Press Ctrl-C after a step of an epoch, or after the whole epoch."""

    def on_step(number, done, total):
        if (number, done) == (epoch, step):
            raise KeyboardInterrupt

    def on_epoch(finished, progress):
        if step is None and finished.epoch == epoch:
            raise KeyboardInterrupt

    return Observer(on_step=on_step, on_epoch=on_epoch)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimisation__loss": "binary", "optimisation__weight_decay": 0.1},
        {"optimisation__stale_share": 1.0},
        {"model": "static"},
        {"model": "capacity-matched"},
        {"model": "film"},
        {"model": "apg"},
        LONGER | {"generator__weight_decay": 0.1, "generator__delta_penalty": 0.5},
        LONGER | {"model": "capacity-matched", "generator__encoder": "gru4rec"},
    ],
    ids=[
        "duet",
        "duet binary",
        "duet stale",
        "static",
        "capacity-matched",
        "film",
        "apg",
        "longer samples",
        "longer capacity-matched",
    ],
)
def test_stopping_after_every_epoch_changes_nothing(config, tiny_interactions, tmp_path, settings):
    config = changed(config, **settings)
    train(config, tiny_interactions, tmp_path / "whole")

    for epoch in range(1, EPOCHS):
        torch.manual_seed(epoch + 1000)  # another process would be anywhere
        with pytest.raises(KeyboardInterrupt):
            train(config, tiny_interactions, tmp_path / "parts", observer=stop_after(epoch))
    train(config, tiny_interactions, tmp_path / "parts")

    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_finished_run_goes_on_when_more_epochs_are_asked_for(config, tiny_interactions, uninterrupted, tmp_path):
    train(changed(config, optimisation__max_epochs=1), tiny_interactions, tmp_path)

    train(config, tiny_interactions, tmp_path)

    assert_same_run(tmp_path, uninterrupted)
    with pytest.raises(UnusableRun, match="max_epochs"):
        train(changed(config, optimisation__max_epochs=1), tiny_interactions, tmp_path)


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (2, 2), (3, 3)], ids=["first", "middle", "last"])
def test_stopping_within_an_epoch_loses_that_epoch_only(
    config, tiny_interactions, uninterrupted, tmp_path, epoch, step
):
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_interactions, tmp_path, observer=stop_after(epoch, step))

    assert checkpoint.read_progress(tmp_path).epoch == epoch - 1
    resumed = []
    train(config, tiny_interactions, tmp_path, observer=Observer(on_epoch=lambda e, p: resumed.append(e.epoch)))
    assert resumed == list(range(epoch, EPOCHS + 1))
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("place", ["written", "flushed"])
@pytest.mark.parametrize("write", range(4), ids=lambda write: f"write {write}")
def test_stopping_at_any_write_of_a_checkpoint_changes_nothing(
    config, tiny_interactions, uninterrupted, tmp_path, monkeypatch, write, place
):
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_interactions, tmp_path, observer=stop_after(1))
    calls, replace_file = iter(range(100)), os.replace
    fsync = os.fsync

    def fill_up(descriptor):
        if place == "written" and next(calls) == write:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    def stop(source, target, **options):
        if place == "flushed" and next(calls) == write:
            raise OSError(28, "No space left on device")
        replace_file(source, target, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fill_up)
        patched.setattr(os, "replace", stop)
        with pytest.raises(OSError, match="No space left"):
            train(config, tiny_interactions, tmp_path)

    train(config, tiny_interactions, tmp_path)
    assert_same_run(tmp_path, uninterrupted)


def test_a_finished_run_is_left_alone(config, tiny_interactions, uninterrupted):
    before = {path.name: path.read_bytes() for path in uninterrupted.iterdir() if path.is_file()}

    progress = train(config, tiny_interactions, uninterrupted, observer=stop_after(EPOCHS + 1, 1))

    assert progress.finished
    assert progress == checkpoint.read_progress(uninterrupted)
    assert {path.name: path.read_bytes() for path in uninterrupted.iterdir() if path.is_file()} == before


def test_seeds_give_different_runs(config, tiny_interactions, uninterrupted, tmp_path):
    train(changed(config, seed=1), tiny_interactions, tmp_path)

    assert history(tmp_path) != history(uninterrupted)


def test_what_is_recorded_is_what_the_best_weights_give(config, tiny_interactions, uninterrupted):
    progress = checkpoint.read_progress(uninterrupted)
    network = build_network(config, tiny_interactions.item_count)
    checkpoint.load_best(uninterrupted, network)
    split = split_of(config, tiny_interactions)
    questions = ask(split, split.users, "validation", config.backbone.length)

    measured = {str(served): float(rank(network, questions, served).ndcg().mean()) for served in network.served}
    entry = history(uninterrupted)[progress.best_epoch - 1]

    assert entry["validation"] == measured | {"shared": float(rank(network, questions, SHARED).ndcg().mean())}
    assert entry["value"] == progress.best_value == pytest.approx(np.mean(list(measured.values())))
    assert progress.best_value == max(epoch["value"] for epoch in history(uninterrupted))
    assert entry["positions"] == int((split.train_lengths - 1).clip(0).sum())


def test_training_stops_when_validation_no_longer_improves(config, tiny_interactions, tmp_path):
    config = changed(config, optimisation__max_epochs=50, optimisation__patience=2, optimisation__learning_rate=1e-9)

    progress = train(config, tiny_interactions, tmp_path)

    assert progress.finished
    assert progress.epoch == progress.best_epoch + 2 < 50


def test_test_items_and_unseen_users_change_nothing(config, tiny_interactions, uninterrupted, tmp_path):
    split = leave_one_out(tiny_interactions, unseen_share=config.data.unseen_share, seed=config.seed)
    items = tiny_interactions.items.copy()
    random = np.random.default_rng(0)
    for user in split.users:
        taken = set(tiny_interactions.sequence(user).tolist())
        free = [item for item in range(1, tiny_interactions.item_count + 1) if item not in taken]
        items[tiny_interactions.offsets[user + 1] - 1] = random.choice(free)
    for user in split.unseen:
        rows = slice(tiny_interactions.offsets[user], tiny_interactions.offsets[user + 1])
        items[rows] = random.permutation(items[rows])

    train(config, replace(tiny_interactions, items=items), tmp_path)

    for name in ("best.safetensors", "last.safetensors"):
        ours, theirs = (load_file(path / name) for path in (tmp_path, uninterrupted))
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"model": "static"}, {"generator__rank": 2}, {"optimisation__max_epochs": 2}], ids=str
)
def test_a_folder_of_another_configuration_is_refused(config, tiny_interactions, uninterrupted, settings):
    before = (uninterrupted / "last.safetensors").read_bytes()

    with pytest.raises(UnusableRun, match="another configuration") as caught:
        train(changed(config, **settings), tiny_interactions, uninterrupted)

    assert "another folder" in caught.value.remedy
    assert (uninterrupted / "last.safetensors").read_bytes() == before


def test_a_run_goes_on_where_its_log_lies_elsewhere_now(config, tiny_interactions, uninterrupted, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_interactions, tmp_path, observer=stop_after(1))

    train(changed(config, data__source="/elsewhere/u.data"), tiny_interactions, tmp_path)

    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("name", [".lock", ".config.yaml.4711.tmp"])
def test_what_a_killed_process_left_of_itself_is_no_obstacle(config, tiny_interactions, tmp_path, name):
    (tmp_path / name).write_text("process 4711")

    assert train(changed(config, optimisation__max_epochs=1), tiny_interactions, tmp_path).finished


def test_a_folder_of_something_else_is_refused_and_left_alone(config, tiny_interactions, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"sun")

    with pytest.raises(UnusableRun, match="not empty and not a run"):
        train(config, tiny_interactions, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize("name", ["last.safetensors", "state.json"])
def test_a_run_with_a_damaged_checkpoint_is_not_resumed(config, tiny_interactions, tmp_path, name):
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_interactions, tmp_path, observer=stop_after(1))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(UnusableRun) as caught:
        train(config, tiny_interactions, tmp_path)

    assert caught.value.path == str(path)
    assert "rain again" in caught.value.remedy


def test_a_run_whose_checkpoint_is_gone_is_not_started_over(config, tiny_interactions, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_interactions, tmp_path, observer=stop_after(1))
    (tmp_path / "last.safetensors").unlink()

    with pytest.raises(UnusableRun, match="no such checkpoint"):
        train(config, tiny_interactions, tmp_path)

    assert (tmp_path / "best.safetensors").exists()


def test_a_run_resumed_on_other_data_is_refused(config, tiny_interactions, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_interactions, tmp_path, observer=stop_after(1))

    with pytest.raises(UnusableRun, match="other content"):
        train(config, numbered_log([9] * 10), tmp_path)


def test_a_loss_that_is_not_finite_stops_training_and_leaves_the_last_good_checkpoint(
    config, tiny_interactions, tmp_path
):
    with pytest.raises(KeyboardInterrupt):
        train(config, tiny_interactions, tmp_path, observer=stop_after(1))
    path = tmp_path / "last.safetensors"
    tensors = load_file(path)
    tensors["network.meta.classifier.layers.0.weight"][0, 0] = torch.nan
    progress = checkpoint.read_progress(tmp_path)
    save_file(tensors, path, metadata={"epoch": "1"})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}

    with pytest.raises(DivergedTraining) as caught:
        train(config, tiny_interactions, tmp_path)

    assert caught.value.step == progress.step + 1
    assert not np.isfinite(caught.value.loss)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


def test_weights_that_the_last_step_of_an_epoch_broke_are_never_kept(config, tiny_interactions, tmp_path):
    # one step an epoch, so that no further loss tells
    config = changed(
        config, optimisation__batch_size=10_000, optimisation__least_steps=1, optimisation__learning_rate=1e42
    )

    with pytest.raises(DivergedTraining):
        train(config, tiny_interactions, tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "data.json", "tensorboard"}


def test_weights_that_give_no_finite_score_are_not_the_best_epoch(config, tiny_interactions, tmp_path):
    # finite weights, but logits beyond float32
    config = changed(
        config, optimisation__batch_size=10_000, optimisation__least_steps=1, optimisation__learning_rate=1e33
    )

    with pytest.raises(DivergedTraining):
        train(config, tiny_interactions, tmp_path)

    assert [entry["value"] for entry in history(tmp_path)] == [0.0]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_samples_of_one_item_can_be_trained_on(config, tiny_interactions, tmp_path, share):
    config = changed(config, backbone__length=1, optimisation__stale_share=share, optimisation__max_epochs=1)

    assert train(config, tiny_interactions, tmp_path).finished


def test_scalars_go_to_tensorboard(uninterrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted / "tensorboard")).Reload()

    names = {f"validation_ndcg@10/{served}" for served in ("shared", "factors-r3", "full")}
    assert set(events.Tags()["scalars"]) == {"loss/train", "speed/positions_per_s", *names}
    assert [event.step for event in events.Scalars("loss/train")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("loss/train")] == pytest.approx(
        [entry["loss"] for entry in history(uninterrupted)]
    )
