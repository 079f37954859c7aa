"""Classification as a task: questions, examples, and a small world in which generated parameters help."""

import numpy as np
import pytest
import torch

from duet.data.digits import CLASSES, PICTURES, DigitDevices, Pictures
from duet.networks.duet_network import SHARED
from duet.protocol.errors import DatasetTooSmall, InvalidData
from duet.training import checkpoint
from duet.training.classification import ASKED, ask_pictures, right_answers, sample_embeddings
from duet.training.config import TrainingConfig
from duet.training.loop import train
from duet.training.networks import build_network
from duet.training.tasks import task_of


def test_a_device_is_asked_about_what_follows_its_sample(digit_devices):
    pictures = digit_devices.validation

    questions, earlier = ask_pictures(pictures, 6), ask_pictures(pictures, 6, lag=4)

    first = PICTURES - ASKED
    np.testing.assert_array_equal(questions.samples, pictures.images[:, first - 6 : first])
    np.testing.assert_array_equal(questions.following, pictures.images[:, first:])
    np.testing.assert_array_equal(questions.labels, pictures.labels[:, first:])
    np.testing.assert_array_equal(earlier.samples, pictures.images[:, first - 10 : first - 4])
    np.testing.assert_array_equal(earlier.following, questions.following)
    with pytest.raises(DatasetTooSmall, match="33"):
        ask_pictures(pictures, first + 1)


def test_examples_are_windows_of_training_devices_with_classes_from_one(digits_config, digit_devices):
    task = task_of(digits_config, digit_devices)

    inputs, targets = task.examples(1)

    assert (inputs.shape, inputs.dtype) == ((40 * PICTURES // 6, 6, 8, 8), torch.uint8)
    known = {
        (image.tobytes(), label + 1)
        for image, label in zip(
            digit_devices.training.images.reshape(-1, 64), digit_devices.training.labels.reshape(-1), strict=True
        )
    }
    seen = {
        (x.numpy().tobytes(), int(y)) for x, y in zip(inputs.flatten(0, 1).flatten(1), targets.flatten(), strict=True)
    }
    assert seen <= known
    assert not torch.equal(task.examples(2)[0], inputs)
    assert torch.equal(task.examples(1)[0], inputs)


def test_data_and_backbone_must_be_of_one_task(digits_config, tiny_config, digit_devices, tiny_interactions, tmp_path):
    with pytest.raises(InvalidData, match="digits for the backbone cnn"):
        train(digits_config, tiny_interactions, tmp_path / "a")
    with pytest.raises(InvalidData, match="a log of items for the backbone sasrec"):
        train(tiny_config, digit_devices, tmp_path / "b")
    assert not (tmp_path / "a").exists()


def test_a_stopped_run_goes_on_to_the_same_weights(digits_config, digit_devices, digits_run, tmp_path):
    train(digits_config.with_max_epochs(1), digit_devices, tmp_path / "run")
    train(digits_config, digit_devices, tmp_path / "run")

    for name in ("best.safetensors",):
        assert (tmp_path / "run" / name).read_bytes() == (digits_run / name).read_bytes()


def test_a_run_keeps_to_its_devices(digits_config, digit_devices, digits_run):
    other = DigitDevices("digits:tiny", digit_devices.test, digit_devices.validation, digit_devices.test)

    checkpoint.check_data(digits_run, digit_devices)
    with pytest.raises(checkpoint.UnusableRun, match="other content"):
        checkpoint.check_data(digits_run, other)


def shapes(devices, seed):
    """Make devices that see four shapes; half of the devices call two of them by other classes, and show it before."""
    random = np.random.default_rng(seed)
    drawn = np.zeros((4, 8, 8), np.uint8)
    drawn[0, 1:7, 3], drawn[1, 3, 1:7], drawn[2, 1:4, 1:4], drawn[3, 4:7, 4:7] = 255, 255, 255, 255
    kinds = random.integers(0, 4, (devices, PICTURES))
    # devices of one half show bright frames and call the first two shapes by other classes
    is_other = random.random(devices) < 0.5
    images = np.maximum(drawn[kinds], np.where(is_other, 90, 0)[:, None, None, None]).astype(np.uint8)
    images[:, PICTURES - ASKED :] = drawn[kinds[:, PICTURES - ASKED :]]
    images[:, : PICTURES - ASKED : 2] = drawn[kinds[:, : PICTURES - ASKED : 2]]
    return Pictures(images, np.where(is_other[:, None] & (kinds < 2), kinds + 4, kinds).astype(np.int64))


@pytest.mark.slow
def test_generated_parameters_tell_what_only_the_past_of_a_device_tells(tmp_path):
    data = DigitDevices("shapes", shapes(96, 0), shapes(32, 1), shapes(32, 2))
    config = TrainingConfig.model_validate(
        {
            "data": {"source": "digits"},
            "backbone": {"name": "cnn", "length": 8, "width": 8, "dropout": 0.0},
            "generator": {"embedding_dim": 16, "rank": 2, "dropout": 0.0},
            "optimisation": {"batch_size": 32, "learning_rate": 0.01, "max_epochs": 12, "patience": 12},
        }
    )

    progress = train(config, data, tmp_path / "run")

    network = build_network(config, CLASSES)
    checkpoint.load_best(tmp_path / "run", network)
    questions = ask_pictures(data.test, 8)
    generated = right_answers(network, questions, network.served[0]).mean()
    shared = right_answers(network, questions, SHARED).mean()
    swapped = sample_embeddings(network.eval(), questions.samples[::-1].copy())
    foreign = right_answers(network, questions, network.served[0], embeddings=swapped).mean()
    assert generated > 0.9, progress
    assert shared < 0.85
    assert foreign < 0.85
