"""What a device is made from: what cannot work is refused when it is made, not when it asks."""

import math

import numpy as np
import pytest

from duet.device import DuetDevice
from duet.protocol import errors
from duet.protocol.budget import Link
from tests.duet.device.fake_cloud import URL

SAMPLE = [101, 109, 117]


@pytest.mark.parametrize(
    "options",
    [
        *[{"link": link} for link in ("pigeon", None, {"down_kbps": 1, "up_kbps": 1, "rtt_ms": 1})],
        *[{"budget_ms": budget_ms} for budget_ms in (0, -1, math.nan, math.inf, 1e99, 10_001)],
        *[{"timeout_s": timeout_s} for timeout_s in (0, -1, math.nan, math.inf, 1e99)],
        {"device_id": ""},
        {"priority": "urgent"},
    ],
    ids=str,
)
def test_a_device_that_cannot_work_is_refused_at_once(make_device, options):
    with pytest.raises(ValueError, match=r"Expected .*, got "):
        make_device(**options)


def test_what_json_cannot_carry_is_refused_at_once(make_device):
    with pytest.raises(ValueError, match="surrogates"):
        make_device(device_id="\ud800")
    with pytest.raises(TypeError, match="JSON"):
        make_device(accepts={"forms": [object()]})


def test_numbers_of_numpy_and_a_folder_as_text_will_do(make_device, cloud, tmp_path):
    device = make_device(
        link=Link(np.float32(500), np.int64(250), 90),
        budget_ms=np.float32(150),
        timeout_s=np.int64(2),
        cache=str(tmp_path / "text"),
    )

    assert device.update(SAMPLE).status == "updated"
    assert cloud.asked[0]["link"] == {"down_kbps": 500, "up_kbps": 250, "rtt_ms": 90}
    assert cloud.asked[0]["budget_ms"] == 150
    assert (tmp_path / "text" / "films" / "current").exists()


def test_an_address_or_a_model_that_cannot_be_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="http"):
        DuetDevice("cloud.test", "films", device_id="phone-1", cache=tmp_path)
    with pytest.raises(errors.InvalidName):
        DuetDevice(URL, "../films", device_id="phone-1", cache=tmp_path)


@pytest.mark.parametrize(("priority", "urgency"), [("low", "u=5"), ("normal", "u=3"), ("high", "u=1")])
def test_the_priority_is_said_in_a_header_too(make_device, cloud, priority, urgency):
    make_device(priority=priority).update(SAMPLE)

    assert {request.headers["priority"] for request in cloud.requests} == {urgency}
