"""A device, its cloud and its clock."""

import pytest

from duet.device import DeviceModel, DuetDevice
from tests.duet.device import tiny_network
from tests.duet.device.fake_cloud import URL, Clock, FakeCloud


@pytest.fixture
def model():
    return DeviceModel.load(tiny_network.FIXTURE)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cloud():
    return FakeCloud()


@pytest.fixture
def make_device(cloud, clock, tmp_path):
    """Make a device whose cache outlives it, as a phone's does."""
    made = []

    def make(**options):
        options = {
            "device_id": "phone-1",
            "cache": tmp_path / "cache",
            "transport": cloud.transport,
            "clock": clock,
        } | options
        made.append(DuetDevice(URL, "films", **options))
        return made[-1]

    yield make
    for device in made:
        device.close()


@pytest.fixture
def device(make_device):
    return make_device()
