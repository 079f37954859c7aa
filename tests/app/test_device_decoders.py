"""Devices that hold a version's decoders get embeddings, generate for themselves, and end up where factors lead."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI

from app.api import build_api
from app.builder import _colocated
from app.gateway import Gateway
from app.metadata import MetadataReader
from app.settings import AppSettings
from duet.device import DuetDevice
from duet.protocol.errors import UnsupportedPackage
from duet.protocol.package import ParameterPackage
from duet.registry import Registry
from tests.published_version import EMBEDDING, ITEM_IDS, TABLE, write_version

URL = "/v1/models/tiny/parameters"
SAMPLE, LATER = list(ITEM_IDS[:4]), list(ITEM_IDS[3:8])
# the whole factors are the best that there is besides, so that both lead to the same numbers
EXACT = {"forms": ["factors"], "dtypes": ["float32"]}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class InProcess(httpx.BaseTransport):
    """Carries requests of a device to an application in this process."""

    def __init__(self, app: FastAPI, portal: BlockingPortal) -> None:
        self._transport, self._portal = httpx.ASGITransport(app), portal
        self.paths: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        return self._portal.call(self._carried, request, request.read())

    async def _carried(self, request: httpx.Request, content: bytes) -> httpx.Response:
        sent = httpx.Request(request.method, request.url, headers=request.headers, content=content)
        answer = await self._transport.handle_async_request(sent)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_version(tmp_path / "models", decoders=True)
    return tmp_path / "models"


@pytest.fixture
def gateway(models: Path) -> Gateway:
    settings = AppSettings(models=str(models), refresh_s=3600)
    return Gateway(settings, _colocated(settings))


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def cloud(gateway: Gateway, portal: BlockingPortal) -> Iterator[InProcess]:
    app = build_api(gateway, body_limit_bytes=100_000, metadata=MetadataReader(AppSettings(), endpoints=list))
    portal.call(gateway.start)
    yield InProcess(app, portal)
    portal.call(gateway.catalog.stop)


@pytest.fixture
def client(cloud: InProcess) -> httpx.Client:
    return httpx.Client(transport=cloud, base_url="http://cloud.test")


@pytest.fixture
def make_device(cloud: InProcess, tmp_path: Path) -> Callable[..., DuetDevice]:
    def make(**options: object) -> DuetDevice:
        options = {"accepts": EXACT, "budget_ms": 10_000, "cache": tmp_path / "cache"} | options
        return DuetDevice("http://cloud.test", "tiny", device_id="phone", transport=cloud, **options)  # type: ignore[arg-type]

    return make


def test_an_embedding_leads_to_what_the_factors_lead_to(make_device: Callable[..., DuetDevice]) -> None:
    generating, composing = make_device(holds_decoders=True), make_device()

    update, usual = generating.update(SAMPLE), composing.update(SAMPLE)

    assert (str(update.representation), str(usual.representation)) == ("embedding-float32", "factors-r3-float32")
    assert update.package_bytes == 64 + 4 * EMBEDDING < usual.package_bytes
    np.testing.assert_allclose(generating.model.scores(SAMPLE), composing.model.scores(SAMPLE), **CLOSE)
    assert not np.allclose(generating.model.with_shared().scores(SAMPLE), composing.model.scores(SAMPLE), **CLOSE)


def test_half_the_bytes_lead_nearly_there(make_device: Callable[..., DuetDevice]) -> None:
    half = make_device(holds_decoders=True, accepts={"forms": ["factors"], "dtypes": ["float16"]})
    exact = make_device()

    update = half.update(SAMPLE)
    exact.update(SAMPLE)

    assert (str(update.representation), update.package_bytes) == ("embedding-float16", 64 + 2 * EMBEDDING)
    np.testing.assert_allclose(half.model.scores(SAMPLE), exact.model.scores(SAMPLE), rtol=0.02, atol=0.02)


def test_decoders_are_downloaded_once_and_kept_and_nothing_is_sent_twice(
    make_device: Callable[..., DuetDevice], cloud: InProcess
) -> None:
    device = make_device(holds_decoders=True)
    device.prepare()

    statuses = [device.update(sample).status for sample in (SAMPLE, SAMPLE, LATER)]
    again = make_device(holds_decoders=True).update(LATER)

    assert statuses == ["updated", "kept", "updated"]
    assert again.status == "updated"
    assert cloud.paths.count("/v1/models/tiny/decoders") == 1


def test_a_new_version_brings_its_own_decoders(
    make_device: Callable[..., DuetDevice], cloud: InProcess, models: Path, portal: BlockingPortal, gateway: Gateway
) -> None:
    device = make_device(holds_decoders=True)
    device.update(SAMPLE)
    write_version(models, version="v2", seed=2, decoders=True)
    activate(portal, gateway, models, "v2")

    update = device.update(SAMPLE)
    factors = make_device(accepts=EXACT)
    factors.update(SAMPLE)

    assert (update.status, update.model_replaced, str(update.representation)) == ("updated", True, "embedding-float32")
    assert cloud.paths.count("/v1/models/tiny/decoders") == 2
    np.testing.assert_allclose(device.model.scores(SAMPLE), factors.model.scores(SAMPLE), **CLOSE)


def test_a_version_without_decoders_is_asked_for_factors(
    make_device: Callable[..., DuetDevice],
    models: Path,
    client: httpx.Client,
    portal: BlockingPortal,
    gateway: Gateway,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_version(models, version="v2", seed=2)
    activate(portal, gateway, models, "v2")

    update = make_device(holds_decoders=True).update(SAMPLE)

    assert str(update.representation) == "factors-r3-float32"
    assert "published without" in caplog.text
    answer = client.get("/v1/models/tiny/decoders")
    assert (answer.status_code, "Ask for factors" in answer.json()["detail"]) == (404, True)


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_damaged_decoders_on_disk_are_downloaded_again(
    make_device: Callable[..., DuetDevice], cloud: InProcess, tmp_path: Path, content: bytes
) -> None:
    make_device(holds_decoders=True).prepare()
    (kept,) = (tmp_path / "cache").rglob("decoders.onnx")
    kept.write_bytes(content)

    update = make_device(holds_decoders=True).update(SAMPLE)

    assert str(update.representation) == "embedding-float32"
    assert cloud.paths.count("/v1/models/tiny/decoders") == 2


def test_a_graph_that_is_none_is_refused_though_the_manifest_names_it(
    make_device: Callable[..., DuetDevice],
    models: Path,
    portal: BlockingPortal,
    gateway: Gateway,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def spoil(folder: Path) -> None:
        (folder / "decoders.onnx").write_bytes((folder / "encoder.onnx").read_bytes())

    write_version(models, version="v2", seed=2, decoders=True, spoil=spoil)
    activate(portal, gateway, models, "v2")

    update = make_device(holds_decoders=True).update(SAMPLE)

    assert str(update.representation) == "factors-r3-float32"
    assert "not the parameters of the manifest's layers" in caplog.text


def test_who_holds_other_decoders_or_none_is_never_sent_an_embedding(client: httpx.Client) -> None:
    body = {"device": "phone", "sample": SAMPLE, "budget_ms": 10_000}
    plans = [
        client.post(URL, json=body | {"accepts": EXACT | held}).headers["duet-plan"]
        for held in ({}, {"decoders": None}, {"decoders": "0" * 32})
    ]

    assert plans == ["factors-r3-float32"] * 3


def test_a_device_without_decoders_refuses_an_embedding(client: httpx.Client, models: Path) -> None:
    published = Registry(models).open("tiny", "v1")
    name = published.manifest.files["decoders.onnx"].sha256[:32]
    body = {"device": "phone", "sample": SAMPLE, "accepts": EXACT | {"decoders": name}}

    answer = client.post(URL, json=body)

    assert answer.headers["duet-plan"] == "embedding-float32"
    with pytest.raises(UnsupportedPackage, match="decoders"):
        ParameterPackage.decode(answer.content, TABLE)


def activate(portal: BlockingPortal, gateway: Gateway, models: Path, version: str) -> None:
    """Pin a version, and have the gateway look now and not in an hour."""
    Registry(models).activate("tiny", version)
    portal.call(gateway.catalog.refresh)
