"""Devices that photograph digits: repeatable, no image in two parts, and cameras that differ and drift."""

import numpy as np
import pytest

from duet.data.digits import CLASSES, PICTURES, _photographed, is_digits, load_digit_devices
from duet.data.loading import absolute_source
from duet.protocol.errors import InvalidData


def test_shapes_types_and_counts(digit_devices):
    for part, devices in ((digit_devices.training, 40), (digit_devices.validation, 20), (digit_devices.test, 20)):
        assert (part.images.shape, part.images.dtype) == ((devices, PICTURES, 8, 8), np.uint8)
        assert (part.labels.shape, part.labels.dtype) == ((devices, PICTURES), np.int64)
        assert set(np.unique(part.labels)) <= set(range(CLASSES))
    assert digit_devices.part("test") is digit_devices.test
    assert digit_devices.part("validation") is digit_devices.validation


def test_equal_seeds_make_equal_devices_and_others_do_not(digit_devices):
    assert load_digit_devices("digits:tiny", seed=0).fingerprint() == digit_devices.fingerprint()
    assert load_digit_devices("digits:tiny", seed=1).fingerprint() != digit_devices.fingerprint()


def test_no_image_is_on_devices_of_two_parts(monkeypatch):
    monkeypatch.setattr("duet.data.digits._photographed", lambda image, *camera, **more: np.rint(16 * image))
    devices = load_digit_devices("digits:tiny")

    parts = [
        {image.tobytes() for image in part.images.reshape(-1, 64)}
        for part in (devices.training, devices.validation, devices.test)
    ]

    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_a_device_has_classes_of_its_own_and_they_drift(digit_devices):
    labels = digit_devices.training.labels
    halves = np.stack(
        [np.stack([(half == each).mean(1) for each in range(CLASSES)], 1) for half in np.split(labels, 2, 1)]
    )

    between_devices = halves.std(axis=1).mean()
    within_devices = np.abs(halves[0] - halves[1]).mean()

    assert between_devices > 0.05
    assert within_devices > 0.02


def test_a_camera_turns_blurs_and_brightens():
    image = np.zeros((8, 8))
    image[1:4, 3] = 1

    same = _photographed(image, 0, 0, contrast=1, offset=0)
    turned = _photographed(image, 90, 0, contrast=1, offset=0)
    blurred = _photographed(image, 0, 1, contrast=1, offset=0)
    bright = _photographed(image, 0, 0, contrast=0.5, offset=0.8)

    assert (same == 255 * image).all()
    assert (turned[4, 1:4] == 255).all()
    assert blurred.max() < 255
    assert int(blurred.sum()) == pytest.approx(int(same.sum()), rel=0.02)
    assert (bright.min(), bright.max()) == (204, 255)


def test_a_source_is_told_from_the_path_of_a_log():
    assert is_digits("digits")
    assert is_digits("digits:tiny")
    assert not is_digits("digits.csv")
    assert absolute_source("digits:tiny") == "digits:tiny"
    with pytest.raises(InvalidData, match="digits:tiny"):
        load_digit_devices("digits:huge")
