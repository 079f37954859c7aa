"""Samples of images, in JSON and as bytes: one pipeline, one tag, and a 4xx that says what to do. In process."""

import json
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from app.api import build_api
from app.builder import _colocated
from app.gateway import Gateway
from app.metadata import MetadataReader
from app.settings import AppSettings
from duet.device.runtime import DeviceModel
from duet.protocol.package import ParameterPackage
from duet.protocol.request_frame import MEDIA_TYPE, join_request
from duet.registry import PublishedVersion

URL = "/v1/models/digits/parameters"
FIELDS = {"device": "camera", "link": "wifi", "budget_ms": 5000}


@pytest.fixture
def images(digit_devices):
    return digit_devices.test.images[:, :6]


@pytest.fixture
async def client(digits_version: PublishedVersion) -> AsyncIterator[httpx.AsyncClient]:
    settings = AppSettings(models=str(digits_version.folder.parents[1]))
    gateway = Gateway(settings, _colocated(settings))
    await gateway.start()
    app = build_api(gateway, body_limit_bytes=50_000, metadata=MetadataReader(settings, endpoints=list))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client
    await gateway.catalog.stop()


async def post_binary(client: httpx.AsyncClient, rows: bytes, **changes: object) -> httpx.Response:
    body = join_request(json.dumps(FIELDS | changes).encode(), rows)
    return await client.post(URL, content=body, headers={"content-type": MEDIA_TYPE})


async def test_lists_and_bytes_lead_to_the_same_package(client, images, digits_version):
    listed = await client.post(URL, json=FIELDS | {"sample": images[0].tolist()})
    binary = await post_binary(client, images[0].tobytes())
    other = await post_binary(client, images[1].tobytes())

    assert [answer.status_code for answer in (listed, binary, other)] == [200, 200, 200]
    assert listed.headers["duet-tag"] == binary.headers["duet-tag"] != other.headers["duet-tag"]
    table = digits_version.manifest.layers
    packages = [ParameterPackage.decode(answer.content, table) for answer in (listed, binary, other)]
    device = DeviceModel.load(digits_version.path("device.onnx"))
    scores = []
    for package in packages:
        device.swap(package.compose(device.shared))
        scores.append(device.scores(images[0]))
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.abs(scores[0] - scores[2]).max() > 1e-3


async def test_a_device_that_holds_the_parameters_of_its_images_gets_204(client, images):
    answer = await post_binary(client, images[0].tobytes())
    held = {"version": answer.headers["duet-version"], "tag": answer.headers["duet-tag"]}

    again = await client.post(URL, json=FIELDS | {"sample": images[0].tolist(), "current": held})

    assert (again.status_code, again.headers["duet-plan"]) == (204, "keep")


async def test_the_manifest_says_what_a_sample_and_its_quality_are(client):
    manifest = (await client.get("/v1/models/digits")).json()

    assert manifest["task"] == "classification"
    assert manifest["signature"] == {"kind": "tensor", "name": "images", "dtype": "uint8", "shape": [6, 8, 8]}
    qualities = [record["quality"] for record in manifest["representations"]]
    assert {quality["metric"] for quality in qualities} == {"accuracy"}
    assert all(quality["higher_is_better"] and 0 <= quality["value"] <= 1 for quality in qualities)


@pytest.mark.parametrize(
    ("sample", "changes", "status", "code", "told"),
    [
        (b"123", {}, 422, "invalid_sample", "3 bytes, where a row has 64"),
        (b"", {}, 422, "invalid_sample", "0 bytes"),
        (bytes(64), {"budget_ms": -1}, 400, "invalid_request", "budget_ms: expected"),
        (bytes(64), {"sample": [1]}, 400, "invalid_request", "sample: expected"),
        (bytes(64), {"device": None}, 400, "invalid_request", "RequestFields"),
    ],
    ids=["half an image", "nothing", "bad field", "two samples", "no device"],
)
async def test_a_wrong_binary_request_says_what_is_wrong(client, sample, changes, status, code, told):
    answer = await post_binary(client, sample, **changes)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert told in answer.json()["detail"]


async def test_a_frame_that_ends_early_is_a_bad_request(client):
    answer = await client.post(URL, content=b"\xff\xff\xff\x7f{}", headers={"content-type": MEDIA_TYPE})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert "docs/protocol.md" in answer.json()["detail"]


@pytest.mark.parametrize(
    "sample", [[318, 50], "text", [[[0] * 8] * 7], [[[0] * 7 + [256]] * 8]], ids=lambda s: str(s)[:9]
)
async def test_a_sample_of_another_kind_is_refused(client, sample):
    answer = await client.post(URL, json=FIELDS | {"sample": sample})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_sample")
    assert "uint8 [1 to 6, 8, 8]" in answer.json()["detail"]


async def test_items_cannot_be_sent_as_bytes(models):
    settings = AppSettings(models=str(models))
    gateway = Gateway(settings, _colocated(settings))
    await gateway.start()
    app = build_api(gateway, body_limit_bytes=50_000, metadata=MetadataReader(settings, endpoints=list))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        body = join_request(json.dumps(FIELDS).encode(), b"abc")
        answer = await client.post("/v1/models/tiny/parameters", content=body, headers={"content-type": MEDIA_TYPE})
    await gateway.catalog.stop()

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_sample")
