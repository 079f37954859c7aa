"""Files of a run are written whole or not at all; what is damaged or does not fit is refused with a remedy."""

import json
import os
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file

from duet.protocol.errors import UnusableRun
from duet.training import checkpoint
from duet.training.checkpoint import Epoch, Progress, write_atomically
from duet.training.networks import build_network

PROGRESS = Progress(epoch=2, step=6, best_epoch=1, best_value=0.25, seconds=3.5, finished=False)


@pytest.fixture
def trained(tiny_config):
    """A network and an optimiser after two steps."""
    torch.manual_seed(0)
    network = build_network(tiny_config, 60)
    optimizer = torch.optim.AdamW(network.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        sum(parameter.square().sum() for parameter in network.parameters()).backward()
        optimizer.step()
    return network, optimizer


@pytest.fixture
def fresh(tiny_config):
    torch.manual_seed(1)
    network = build_network(tiny_config, 60)
    return network, torch.optim.AdamW(network.parameters())


def test_everything_that_resuming_needs_comes_back(tmp_path, trained, fresh):
    checkpoint.save_last(tmp_path, *trained, PROGRESS)

    progress = checkpoint.resume_last(tmp_path, *fresh)

    assert progress == PROGRESS
    (network, optimizer), (resumed, restored) = trained, fresh
    for name, value in network.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)
    for parameter, copy in zip(network.parameters(), resumed.parameters(), strict=True):
        assert restored.state[copy].keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(restored.state[copy][key], value)


def test_a_parameter_that_was_never_trained_has_no_optimiser_state_afterwards(tmp_path, fresh, tiny_config):
    network = build_network(tiny_config, 60)
    optimizer = torch.optim.AdamW(network.parameters())
    network.meta.backbone.items.weight.sum().backward()
    optimizer.step()
    checkpoint.save_last(tmp_path, network, optimizer, PROGRESS)

    checkpoint.resume_last(tmp_path, *fresh)

    assert list(fresh[1].state) == [fresh[0].meta.backbone.items.weight]


@pytest.mark.parametrize("state", ["older", "absent"])
def test_a_run_stopped_between_its_two_files_goes_on_from_the_newer_one(tmp_path, trained, fresh, state):
    checkpoint.save_last(tmp_path, *trained, PROGRESS)
    if state == "older":
        (tmp_path / "state.json").write_text(json.dumps(asdict(Progress(epoch=1, step=3))))
    else:
        (tmp_path / "state.json").unlink()

    assert checkpoint.resume_last(tmp_path, *fresh) == PROGRESS
    assert checkpoint.read_progress(tmp_path) == PROGRESS


def test_progress_that_belongs_to_no_known_epoch_is_refused(tmp_path, trained, fresh):
    checkpoint.save_last(tmp_path, *trained, PROGRESS)
    tensors = load_file(tmp_path / "last.safetensors")
    save_file(tensors, tmp_path / "last.safetensors")  # the metadata are gone

    with pytest.raises(UnusableRun, match=r"last\.safetensors") as caught:
        checkpoint.resume_last(tmp_path, *fresh)

    assert "train again" in caught.value.remedy


@pytest.mark.parametrize("kept", [0, 4, 100, -1], ids=["empty", "half a length", "half a header", "last byte missing"])
def test_a_truncated_checkpoint_is_refused_with_a_remedy(tmp_path, trained, fresh, kept):
    checkpoint.save_last(tmp_path, *trained, PROGRESS)
    path = tmp_path / "last.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    before = {name: value.clone() for name, value in fresh[0].state_dict().items()}

    with pytest.raises(UnusableRun, match="damaged") as caught:
        checkpoint.resume_last(tmp_path, *fresh)

    assert caught.value.path == str(path)
    assert caught.value.remedy == "Train again."
    assert all(torch.equal(value, before[name]) for name, value in fresh[0].state_dict().items())


@pytest.mark.parametrize(
    "text",
    ["", '{"epoch": 2, "step"', "[2, 6]", '{"epoch": 2, "unknown": 1}', "\udcff"],
    ids=["empty", "truncated", "a list", "unknown field", "no text"],
)
def test_a_damaged_state_is_refused_with_a_remedy(tmp_path, trained, fresh, text):
    checkpoint.save_last(tmp_path, *trained, PROGRESS)
    (tmp_path / "state.json").write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(UnusableRun, match="cannot be read") as caught:
        checkpoint.resume_last(tmp_path, *fresh)

    assert caught.value.path == str(tmp_path / "state.json")
    assert caught.value.remedy == "Delete the folder and train again."


def test_a_checkpoint_of_another_size_is_refused_with_the_first_difference(tmp_path, trained, tiny_config):
    checkpoint.save_last(tmp_path, *trained, PROGRESS)
    other = build_network(tiny_config, 61)

    with pytest.raises(UnusableRun, match=r"backbone\.items\.weight: expected \[62, 8\], got \[61, 8\]") as caught:
        checkpoint.resume_last(tmp_path, other, torch.optim.AdamW(other.parameters()))

    assert "new folder" in caught.value.remedy


def test_a_checkpoint_with_other_tensors_is_refused(tmp_path, trained, tiny_config):
    checkpoint.save_last(tmp_path, *trained, PROGRESS)
    other = build_network(tiny_config.model_copy(update={"model": "static"}), 60)

    with pytest.raises(UnusableRun, match="expected None"):
        checkpoint.resume_last(tmp_path, other, torch.optim.AdamW(other.parameters()))


def test_a_run_without_a_finished_epoch_has_no_best_weights_yet(tmp_path, fresh):
    assert checkpoint.read_progress(tmp_path) == Progress()
    assert checkpoint.read_history(tmp_path) == []
    with pytest.raises(UnusableRun, match="no such checkpoint") as caught:
        checkpoint.load_best(tmp_path, fresh[0])
    assert "finish at least one epoch" in caught.value.remedy


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["absent", "empty"])
def test_a_folder_that_is_no_run_is_refused(tmp_path, make):
    make(tmp_path / "run")

    with pytest.raises(UnusableRun, match=r"no config\.yaml") as caught:
        checkpoint.read_run_config(tmp_path / "run")

    assert "duet train" in caught.value.remedy


def epoch(number, *, loss=1.0):
    return Epoch(number, loss, {"shared": 0.1}, 0.1, train_s=2.0, validation_s=0.5, positions=100)


def test_what_the_epochs_measured_comes_back(tmp_path):
    for number in (1, 2):
        checkpoint.record_epoch(tmp_path, epoch(number))

    assert checkpoint.read_history(tmp_path) == [epoch(1), epoch(2)]


def test_an_epoch_that_is_recorded_again_replaces_what_a_stopped_run_left(tmp_path):
    for number in (1, 2, 3):
        checkpoint.record_epoch(tmp_path, epoch(number, loss=9.0))
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')

    checkpoint.record_epoch(tmp_path, epoch(3))

    assert checkpoint.read_history(tmp_path) == [epoch(1, loss=9.0), epoch(2, loss=9.0), epoch(3)]


@pytest.mark.parametrize("line", ['{"epoch": 1}', "[1, 2]", "{", "\x00"])
def test_a_damaged_history_is_refused_with_a_remedy(tmp_path, line):
    (tmp_path / "history.jsonl").write_text(f"{line}\n")

    with pytest.raises(UnusableRun, match=r"history\.jsonl") as caught:
        checkpoint.read_history(tmp_path)

    assert caught.value.remedy


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"

    for content in (b"old", b"new and longer", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content

    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", [1, 2], ids=["tensors", "state"])
def test_a_checkpoint_that_cannot_be_written_leaves_one_that_can_be_resumed(
    tmp_path, monkeypatch, trained, fresh, failing
):
    checkpoint.save_last(tmp_path, *trained, Progress(epoch=1))
    calls, fsync = iter(range(1, 10)), os.fsync

    def fill_up(descriptor):
        if next(calls) >= failing:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fill_up)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save_last(tmp_path, *trained, PROGRESS)

    assert checkpoint.resume_last(tmp_path, *fresh) == (Progress(epoch=1) if failing == 1 else PROGRESS)
    assert {path.name for path in tmp_path.iterdir()} == {"last.safetensors", "state.json"}
