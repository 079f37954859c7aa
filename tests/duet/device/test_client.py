"""The device and its cloud: downloads, updates, and every failure that must leave the device as good as it was."""

import threading

import httpx
import numpy as np
import pytest

from duet.protocol import errors
from duet.protocol.budget import Link
from duet.protocol.package import ParameterPackage
from duet.protocol.representation import SHARED, Representation
from tests.duet.device.fake_cloud import FACTORS, FakeCloud, corrupted, values_for

SAMPLE = [101, 109, 117]
LATER = [109, 117, 120]


def expected_scores(device, cloud, sample):
    package = ParameterPackage.decode(cloud.package(sample), device.model.table)
    oracle = type(device.model).load(cloud.onnx)
    oracle.swap(package.compose(oracle.shared))
    return oracle.scores(sample)


def test_nothing_is_sent_before_it_is_needed(make_device, cloud):
    make_device()

    assert cloud.requests == []


def test_the_device_model_is_downloaded_once_and_predicts_with_shared_parameters(device, cloud):
    device.predict(SAMPLE)
    device.predict(LATER)

    assert cloud.downloads == ["/", "/device-model"]
    assert device.representation is None
    assert device.model.is_shared
    assert device.manifest.version == "v1"


def test_a_first_device_model_is_that_of_the_version_which_this_device_gets(device, cloud):
    device.predict(SAMPLE)

    manifest, device_model = (dict(request.url.params) for request in cloud.requests)
    device.update(SAMPLE)

    assert manifest == {"device": cloud.asked[0]["device"]}
    assert device_model == {"version": "v1"}


def test_a_device_that_starts_again_needs_no_network(make_device, cloud):
    before = make_device().predict(SAMPLE)
    cloud.fail(httpx.ConnectError("no route"))

    assert make_device().predict(SAMPLE) == before
    assert cloud.downloads == ["/", "/device-model"]


@pytest.mark.parametrize("file", ["device.onnx", "manifest.json"])
def test_a_damaged_cache_is_downloaded_again(make_device, cloud, tmp_path, file):
    before = make_device().predict(SAMPLE)
    (path,) = (tmp_path / "cache" / "films").glob(f"*/{file}")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    assert make_device().predict(SAMPLE) == before
    assert path.read_bytes() == whole
    assert cloud.downloads == ["/", "/device-model"] * 2


def test_without_cache_and_cloud_there_is_no_model_and_the_reason_is_said(device, cloud):
    cloud.fail(httpx.ConnectError("no route"), httpx.ConnectError("no route"))

    with pytest.raises(errors.NoDeviceModel, match="no route") as caught:
        device.prepare()
    assert str(caught.value).count("Expected") == 1
    update = device.update(SAMPLE)

    assert (update.status, type(update.error)) == ("failed", errors.NoDeviceModel)
    assert device.predict(SAMPLE)


@pytest.mark.parametrize(
    "spoil",
    [lambda body: body[:-1], lambda body: b"", lambda body: body[:50] + b"?" + body[51:], lambda body: body + b"more"],
    ids=["truncated", "empty", "edited", "too long"],
)
def test_a_device_model_that_the_manifest_does_not_hash_is_refused(device, cloud, spoil):
    cloud.fail(cloud.answer, corrupted(cloud, lambda body: bytes(spoil(body))))

    with pytest.raises(errors.NoDeviceModel):
        device.prepare()

    device.prepare()


def test_a_manifest_of_another_model_is_refused(make_device, cloud):
    cloud.fail(lambda request: httpx.Response(200, content=FakeCloud("books").manifests["v1"]))

    with pytest.raises(errors.NoDeviceModel, match="books"):
        make_device().prepare()


def test_an_update_puts_the_parameters_for_the_sample_in_place(device, cloud):
    update = device.update(SAMPLE)

    assert update.status == "updated"
    assert update.representation == device.representation == FACTORS
    np.testing.assert_array_equal(device.model.scores(SAMPLE), expected_scores(device, cloud, SAMPLE))


def test_an_update_reports_what_the_cloud_planned_and_what_the_device_measured(device, cloud, clock):
    def slow(request):
        clock.now += 0.081
        return cloud.answer(request)

    device.prepare()
    cloud.fail(slow)
    update = device.update(SAMPLE)

    assert update.plan == "factors-r2-int8"
    assert (update.predicted_ms, update.network_ms, update.server_ms) == (83.5, 72.25, 2.5)
    assert update.server == {"queue": 0.5, "encode": 1.0, "generate": 0.75, "compose": 0.25}
    assert update.measured_ms == pytest.approx(81)
    assert update.package_bytes == device.model.table.package_bytes(FACTORS)
    assert update.bytes_down > update.package_bytes
    assert update.bytes_up > len(cloud.requests[-1].content)
    assert (update.attempts, update.model_replaced, update.error) == (1, False, None)


def test_a_request_says_everything_that_the_cloud_plans_with(make_device, cloud):
    device = make_device(
        link=Link(500, 250, 90), budget_ms=150, accepts={"forms": ("factors",), "dtypes": ["int8"]}, priority="high"
    )

    device.update(SAMPLE)

    assert cloud.asked == [
        {
            "device": "phone-1",
            "sample": SAMPLE,
            "budget_ms": 150,
            "link": {"down_kbps": 500, "up_kbps": 250, "rtt_ms": 90},
            "accepts": {"forms": ["factors"], "dtypes": ["int8"]},
            "priority": "high",
        }
    ]


def test_a_profile_goes_by_its_name_and_only_the_items_that_are_read_are_sent(make_device, cloud):
    make_device(link="slow-3g").update([101, 102, 103, 104, 105, 106, 107])

    assert cloud.asked[0]["link"] == "slow-3g"
    assert cloud.asked[0]["sample"] == [103, 104, 105, 106, 107]


def test_the_cloud_is_told_what_the_device_holds_and_for_how_long(device, cloud, clock):
    device.update(SAMPLE)
    clock.now += 30

    update = device.update(LATER)

    held = cloud.asked[1]["current"]
    assert "current" not in cloud.asked[0]
    assert held["version"] == cloud.digest.hex()
    assert held["age_s"] == pytest.approx(30)
    assert update.status == "updated"


def test_parameters_that_are_still_right_are_kept(device):
    device.update(SAMPLE)
    before = device.model.scores(SAMPLE)

    update = device.update(SAMPLE)

    assert (update.status, update.plan, update.package_bytes) == ("kept", "keep", 0)
    assert update.representation == FACTORS
    np.testing.assert_array_equal(device.model.scores(SAMPLE), before)


def test_a_shared_package_resets_the_device(device, cloud):
    device.update(SAMPLE)
    cloud.representation = SHARED

    update = device.update(LATER)

    assert (update.status, update.representation) == ("updated", SHARED)
    assert device.model.is_shared


def test_another_version_brings_its_device_model_then_its_parameters(device, cloud, make_device):
    device.update(SAMPLE)
    cloud.publish("v2")

    update = device.update(LATER)

    assert (update.status, update.model_replaced, update.attempts) == ("updated", True, 2)
    assert device.manifest.version == "v2"
    assert "current" not in cloud.asked[-1]
    np.testing.assert_array_equal(device.model.scores(LATER), expected_scores(device, cloud, LATER))
    assert make_device().manifest.version == "v2"


def test_a_version_that_was_held_before_is_not_downloaded_again(device, cloud):
    device.update(SAMPLE)
    cloud.publish("v2")
    device.update(SAMPLE)
    cloud.active = "v1"

    update = device.update(LATER)

    assert (update.status, device.manifest.version) == ("updated", "v1")
    assert cloud.downloads.count("/device-model") == 2


@pytest.mark.parametrize("step", ["manifest", "device model", "second request"])
def test_a_new_version_that_does_not_arrive_whole_leaves_the_old_one_at_work(device, cloud, step):
    device.update(SAMPLE)
    scores = device.model.scores(SAMPLE)
    cloud.publish("v2")
    whole = {"manifest": 1, "device model": 2, "second request": 3}[step]
    cloud.fail(*[cloud.answer] * whole, httpx.ReadTimeout("slow"))

    update = device.update(LATER)

    assert (update.status, type(update.error)) == ("failed", errors.CloudUnreachable)
    assert device.manifest.version == "v1"
    np.testing.assert_array_equal(device.model.scores(SAMPLE), scores)
    assert device.update(LATER).status == "updated"
    assert device.manifest.version == "v2"


def test_a_package_of_a_version_that_the_cloud_does_not_serve_is_refused(device, cloud):
    device.update(SAMPLE)
    scores = device.model.scores(SAMPLE)

    def stray(request):
        return httpx.Response(200, content=cloud.package(LATER, version=bytes(16)))

    cloud.fail(stray, cloud.answer, stray)

    update = device.update(LATER)

    assert (update.status, type(update.error)) == ("failed", errors.WrongVersion)
    np.testing.assert_array_equal(device.model.scores(SAMPLE), scores)


def test_a_refresh_moves_to_the_served_version_with_its_shared_parameters(device, cloud):
    device.update(SAMPLE)

    assert not device.refresh_model()
    assert device.representation == FACTORS
    cloud.publish("v2")
    assert device.refresh_model()

    assert device.manifest.version == "v2"
    assert device.representation is None
    assert device.model.is_shared


def test_a_full_disk_costs_the_cache_and_nothing_else(make_device, cloud, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    device = make_device(cache=tmp_path / "file" / "cache")

    assert device.update(SAMPLE).status == "updated"
    assert "without a cache" in caplog.text


def test_a_series_of_failures_is_logged_once(device, cloud, caplog):
    device.prepare()
    cloud.fail(*[httpx.ReadTimeout("slow")] * 3)

    for _ in range(3):
        device.update(SAMPLE)

    assert len(caplog.records) == 1


def test_an_error_that_is_raised_is_not_logged_as_well(device, cloud, caplog):
    device.prepare()
    cloud.fail(httpx.ReadTimeout("slow"), httpx.ReadTimeout("slow"))

    with pytest.raises(errors.CloudUnreachable):
        device.update(SAMPLE, raise_on_error=True)
    raised = len(caplog.records)
    device.update(SAMPLE)

    assert (raised, len(caplog.records)) == (0, 1)


def test_predictions_go_on_while_an_update_waits(device, cloud):
    device.prepare()
    arrived, released = threading.Event(), threading.Event()

    def wait(request):
        arrived.set()
        assert released.wait(30)
        return cloud.answer(request)

    cloud.fail(wait)
    updates = []
    thread = threading.Thread(target=lambda: updates.append(device.update(SAMPLE)))
    thread.start()
    assert arrived.wait(30)
    ranking = device.predict(SAMPLE)
    released.set()
    thread.join(30)

    assert len(ranking) == 10
    assert updates[0].status == "updated"


def test_a_closed_device_predicts_and_reports_that_it_cannot_update(device, cloud):
    device.update(SAMPLE)
    before = device.predict(SAMPLE)
    device.close()

    update = device.update(LATER)

    assert (update.status, type(update.error)) == ("failed", errors.CloudUnreachable)
    assert "closed" in str(update.error)
    assert device.predict(SAMPLE) == before


def test_a_device_that_is_closed_before_it_has_a_model_says_so(make_device):
    device = make_device()
    device.close()

    with pytest.raises(errors.NoDeviceModel, match="closed"):
        device.prepare()


def test_the_numbers_of_the_package_are_those_of_the_sample():
    # guards the fake: were its packages alike, no test above would notice a swap that did nothing
    first, second = (values_for(sample, Representation.parse("full-float32")) for sample in (SAMPLE, LATER))

    assert not np.array_equal(first["hidden"].weight, second["hidden"].weight)
