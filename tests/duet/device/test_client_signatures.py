"""A device with a signing key believes what is signed for the sample it sent, and keeps its parameters otherwise."""

import httpx
import numpy as np
import pytest

from duet.protocol.access_errors import ForgedPackage, Unauthorized
from duet.protocol.errors import NoDeviceModel
from duet.protocol.signing import HEADER, SigningKey
from tests.duet.device.fake_cloud import problem

SAMPLE, LATER = [101, 109, 117], [109, 117, 120]
OLD, NEW = SigningKey("old", bytes(32)), SigningKey("new", bytes(range(32)))


@pytest.fixture
def signing_cloud(cloud):
    """A cloud that signs packages and manifests with ``cloud.key``, and only these."""
    cloud.key = OLD
    plain = cloud.answer

    def answer(request):
        response = plain(request)
        if response.status_code == 200 and not request.url.path.endswith("/device-model"):
            response.headers[HEADER] = cloud.key.sign(response.content)
        return response

    cloud.answer = answer
    return cloud


def with_body(response, body):
    headers = {name: value for name, value in response.headers.items() if name.lower() != "content-length"}
    return httpx.Response(response.status_code, headers=headers, content=body)


def test_what_is_signed_is_used(make_device, signing_cloud):
    device = make_device(signing_key=OLD)

    assert device.update(SAMPLE).status == "updated"
    assert device.update(SAMPLE).status == "kept"


def test_a_device_without_a_key_needs_no_signature(make_device, cloud):
    assert make_device().update(SAMPLE).status == "updated"


def forged(cloud, request):
    """A package that is sound in itself, signed with a key that the device does not have."""
    cloud.key, right = SigningKey("old", bytes([1] * 32)), cloud.key
    response = cloud.answer(request)
    cloud.key = right
    return response


def unsigned(cloud, request):
    response = cloud.answer(request)
    del response.headers[HEADER]
    return response


def recorded(cloud, request):
    """A genuine answer to another sample."""
    content = cloud.package(LATER, bytes(8))
    return httpx.Response(200, content=content, headers={HEADER: cloud.key.sign(content)})


def changed(cloud, request):
    response = cloud.answer(request)
    return with_body(response, response.content[:-1] + bytes([response.content[-1] ^ 1]))


@pytest.mark.parametrize("fault", [forged, unsigned, recorded, changed])
def test_what_is_not_is_refused_and_the_parameters_in_place_stay(make_device, signing_cloud, fault):
    device = make_device(signing_key=OLD)
    device.update(LATER)
    scores = device.model.scores(SAMPLE)
    signing_cloud.fail(lambda request: fault(signing_cloud, request))

    update = device.update(SAMPLE)

    assert (update.status, type(update.error)) == ("failed", ForgedPackage)
    np.testing.assert_array_equal(device.model.scores(SAMPLE), scores)
    assert device.update(SAMPLE).status == "updated"


def test_a_forged_answer_is_refused_on_the_second_attempt_too(make_device, signing_cloud):
    device = make_device(signing_key=OLD)
    device.prepare()
    signing_cloud.fail(httpx.ReadError("reset"), lambda request: forged(signing_cloud, request))

    assert isinstance(device.update(SAMPLE).error, ForgedPackage)


def test_a_device_model_of_a_manifest_that_is_not_signed_is_not_installed(make_device, signing_cloud):
    device = make_device(signing_key=OLD)
    signing_cloud.fail(lambda request: unsigned(signing_cloud, request))

    with pytest.raises(NoDeviceModel) as refusal:
        device.prepare()

    assert isinstance(refusal.value.__cause__, ForgedPackage)
    assert signing_cloud.downloads == ["/"]


def test_during_a_rotation_a_device_with_both_keys_misses_nothing(make_device, signing_cloud):
    device = make_device(signing_key=[OLD, NEW])
    first = device.update(SAMPLE)

    signing_cloud.key = NEW

    assert (first.status, device.update(LATER).status) == ("updated", "updated")


def test_the_api_key_goes_with_every_request(make_device, cloud):
    make_device(api_key="duet_1_2").update(SAMPLE)

    assert len(cloud.requests) == 3
    assert {request.headers["authorization"] for request in cloud.requests} == {"Bearer duet_1_2"}


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "ключ"])
def test_an_api_key_that_no_header_can_carry_is_refused_and_not_shown(make_device, key):
    with pytest.raises(ValueError, match="API key") as refusal:
        make_device(api_key=key)

    assert not key or key not in str(refusal.value)


def test_a_refused_key_says_what_to_do(make_device, cloud):
    device = make_device(api_key="wrong")
    device.prepare()
    cloud.fail(problem(401, "unauthorized"))

    update = device.update(SAMPLE)

    assert isinstance(update.error, Unauthorized)
    assert "Authorization: Bearer" in str(update.error)
