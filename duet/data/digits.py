"""Devices that photograph digits: each has its own mix of classes and its own camera, and both drift.

The images are the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn carries (``sklearn.datasets.load_digits``;
UCI, Alpaydin and Kaynak). No image is on devices of two parts: those of training, validation and test differ in device
and in image. A device takes its pictures one after another. Its preference for classes and its camera are drawn twice,
and move half of the way from the first draw to the second in that time:

    classes      Dirichlet(0.3)
    rotation     -90 to 90 degrees
    blur         Gaussian, sigma 0 to 1.2 pixels
    brightness   contrast 0.3 to 1 and offset 0 to 0.5; values are cut off at white

Shapes: U devices, n pictures of a device.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from duet.data.splits import Part
from duet.protocol.errors import InvalidData

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = "digits"
"""How a configuration names these data."""

CLASSES: Final = 10
SIDE: Final = 8
PRESETS: "Mapping[str, tuple[int, int]]" = {"digits": (1200, 200), "digits:tiny": (40, 20)}
"""Devices for training, and for each of validation and test, by source."""

PICTURES: Final = 48
_WHITE, _PARTS = 16.0, ("training", "validation", "test")
_SHARES = (0.6, 0.8)
_DRIFT = 0.5


@dataclass(frozen=True)
class Pictures:
    """What some devices saw, oldest first: images uint8 ``[U, n, 8, 8]``, and their classes int64 ``[U, n]``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class DigitDevices:
    """One data set: the pictures of the devices of each part.

    Attributes:
        name: Name of the data set, as it appears in results.
        training: Devices that are learnt from.
        validation: Unseen devices that a run is selected on.
        test: Unseen devices that results are of.
    """

    name: str
    training: Pictures
    validation: Pictures
    test: Pictures

    @property
    def summary(self) -> str:
        """How much there is, for a person."""
        training, unseen = len(self.training.labels), len(self.test.labels)
        return f"{training:,} devices with {PICTURES} pictures each, {unseen:,} unseen ones each to validate and test"

    def part(self, part: Part) -> Pictures:
        """Return the unseen devices of a part."""
        return self.test if part == "test" else self.validation

    def fingerprint(self) -> str:
        """Return the SHA-256 of all pictures: equal for data that lead to the same training."""
        digest = hashlib.sha256()
        for part in (self.training, self.validation, self.test):
            digest.update(part.images.tobytes() + part.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def is_digits(source: str) -> bool:
    """Whether a source names these data, by one of its presets or by mistake."""
    return source.partition(":")[0] == SOURCE


def load_digit_devices(source: str = SOURCE, *, seed: int = 0) -> DigitDevices:
    """Make the devices.

    Args:
        source: ``digits`` or ``digits:tiny``.
        seed: Which images go to which part, and everything about the devices.

    Raises:
        InvalidData: If there is no such source.
        ModuleNotFoundError: If scikit-learn is not installed.
    """
    if source not in PRESETS:
        expected = f"one of {', '.join(PRESETS)}"
        raise InvalidData(path=source, line=None, expected=expected, received=source, remedy="Correct the source.")
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng([seed, 0]).permutation(len(found.images))
    pools = np.split(order, [int(share * len(order)) for share in _SHARES])
    training, unseen = PRESETS[source]
    parts = [
        _pictures(found.images[pool], found.target[pool], devices, np.random.default_rng([seed, number]))
        for number, (pool, devices) in enumerate(zip(pools, (training, unseen, unseen), strict=True), start=1)
    ]
    return DigitDevices(source, *parts)


def _pictures(
    images: NDArray[np.float64], labels: NDArray[np.int64], devices: int, random: np.random.Generator
) -> Pictures:
    """Let devices take pictures of the images of one part."""
    of_class = [np.flatnonzero(labels == each) for each in range(CLASSES)]
    taken = np.empty((devices, PICTURES, SIDE, SIDE), np.uint8)
    classes = np.empty((devices, PICTURES), np.int64)
    low, high = np.array([-90, 0, 0.3, 0]), np.array([90, 1.2, 1, 0.5])
    for device in range(devices):
        mix = random.dirichlet(np.full(CLASSES, 0.3), 2)
        camera = random.uniform(low, high, (2, len(low)))
        for ends in (mix, camera):
            ends[1] = (1 - _DRIFT) * ends[0] + _DRIFT * ends[1]
        for place in range(PICTURES):
            time = place / (PICTURES - 1)
            weights = (1 - time) * mix[0] + time * mix[1]
            kind = random.choice(CLASSES, p=weights / weights.sum())
            degrees, blur, contrast, offset = (1 - time) * camera[0] + time * camera[1]
            image = images[random.choice(of_class[kind])] / _WHITE
            taken[device, place] = _photographed(image, degrees, blur, contrast=contrast, offset=offset)
            classes[device, place] = kind
    return Pictures(taken, classes)


def _photographed(
    image: NDArray[np.float64], degrees: float, blur: float, *, contrast: float, offset: float
) -> NDArray[np.uint8]:
    """Return an image ``[8, 8]`` of values from 0 to 1 as the camera of a device gives it, uint8."""
    from scipy import ndimage

    turned = ndimage.rotate(image, degrees, reshape=False, order=1)
    blurred = ndimage.gaussian_filter(turned, blur)
    seen: NDArray[np.uint8] = np.rint(255 * np.clip(contrast * blurred + offset, 0, 1)).astype(np.uint8)
    return seen
