"""A device may send the embedding of its sample: it gets the same parameters, or is told why it cannot have them."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from app.api import build_api
from app.builder import _colocated
from app.gateway import Gateway
from app.metadata import MetadataReader
from app.offers import JSON
from app.settings import AppSettings
from deployments.encoder import Encoder
from deployments.pipeline import Pipeline
from duet.device import DuetDevice
from duet.protocol.budget import Link
from duet.protocol.canonical_json import encode_json
from duet.protocol.package import ParameterPackage
from duet.registry import PublishedVersion, Registry
from tests.deployments.test_pipeline import split
from tests.published_version import EMBEDDING, ITEM_IDS, TABLE, write_version

URL = "/v1/models/tiny/parameters"
SAMPLE = list(ITEM_IDS[:3])
ASKED: dict[str, Any] = {"device": "phone", "link": "wifi", "budget_ms": 5000}
HUGE = [65504.0] * EMBEDDING
PLACEMENTS: dict[str, Callable[[Path], Pipeline]] = {
    "colocated": lambda models: _colocated(AppSettings(models=str(models))),
    "split": split,
}


@asynccontextmanager
async def served(models: Path, pipeline: Pipeline | None = None) -> AsyncIterator[tuple[httpx.AsyncClient, Gateway]]:
    settings = AppSettings(models=str(models))
    gateway = Gateway(settings, pipeline or _colocated(settings))
    await gateway.start()
    await gateway.catalog.stop()
    api = build_api(gateway, body_limit_bytes=50_000, metadata=MetadataReader(settings, endpoints=list))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
        yield client, gateway


@pytest.fixture(params=PLACEMENTS.values(), ids=PLACEMENTS.keys())
async def client(request: pytest.FixtureRequest, models: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with served(models, request.param(models)) as (client, _):
        yield client


def embedding_of(published: PublishedVersion, sample: object = SAMPLE) -> NDArray[np.float16]:
    encoder = Encoder(published.folder.parents[1])
    (row,) = encoder.encode([sample], model=published.model, version=published.version)
    return row.astype("<f2")


def text(embedding: NDArray[np.float16]) -> str:
    return base64.b64encode(embedding.tobytes()).decode()


def body(published: PublishedVersion, values: object = None, **fields: Any) -> dict[str, Any]:
    values = text(embedding_of(published)) if values is None else values
    return ASKED | {"embedding": {"version": published.digest.hex(), "values": values}} | fields


def undeclared(published: PublishedVersion) -> None:
    """Turn a version into one of those that were published before they could declare embeddings."""
    document = json.loads(published.manifest_bytes) | {"format": 1}
    del document["embedding_upload"]
    (published.folder / "manifest.json").write_bytes(encode_json(document))


async def test_an_embedding_gets_the_parameters_of_its_sample_up_to_its_rounding(
    client: httpx.AsyncClient, published: PublishedVersion
) -> None:
    embedding = embedding_of(published)

    sampled = await client.post(URL, json=ASKED | {"sample": SAMPLE})
    embedded = [
        await client.post(URL, json=body(published, values)) for values in (text(embedding), embedding.tolist())
    ]

    packages = [ParameterPackage.decode(answer.content, TABLE, version=published.digest) for answer in embedded]
    expected = ParameterPackage.decode(sampled.content, TABLE)
    assert embedded[0].content == embedded[1].content
    assert packages[0].representation == expected.representation
    # each of the D numbers is rounded by 2^-12 at most, and met by weights of a deviation of 0.5: four hardly occur
    tolerance = EMBEDDING * 4 * 0.5 * 2.0**-12
    for name, layer in expected.values().items():
        given = packages[0].values()[name]
        np.testing.assert_allclose(given.weight, layer.weight, rtol=0, atol=tolerance)
        np.testing.assert_allclose(given.shift, layer.shift, rtol=0, atol=tolerance)


async def test_what_the_device_holds_for_an_embedding_is_not_sent_again(
    client: httpx.AsyncClient, published: PublishedVersion
) -> None:
    first = await client.post(URL, json=body(published))
    current = {"version": first.headers["duet-version"], "tag": first.headers["duet-tag"]}
    numbers = embedding_of(published).tolist()
    other = text(embedding_of(published, SAMPLE[:1]))

    again = [
        await client.post(URL, json=asked | {"current": current})
        for asked in (body(published), body(published, numbers), body(published, other), ASKED | {"sample": SAMPLE})
    ]

    assert [answer.status_code for answer in again] == [204, 204, 200, 200]
    assert again[-1].headers["duet-tag"] != current["tag"]


async def test_an_embedding_of_the_very_bytes_of_a_sample_is_not_taken_for_it(
    client: httpx.AsyncClient, published: PublishedVersion
) -> None:
    sample = [*SAMPLE, 10]
    spelling = published.signature().canonical(sample)
    assert len(spelling) == 2 * EMBEDDING
    sampled = await client.post(URL, json=ASKED | {"sample": sample})
    current = {"version": sampled.headers["duet-version"], "tag": sampled.headers["duet-tag"]}

    answer = await client.post(URL, json=body(published, base64.b64encode(spelling).decode(), current=current))

    assert answer.status_code == 200
    assert answer.content != sampled.content


async def test_the_bytes_of_an_embedding_are_counted_in_the_plan(
    client: httpx.AsyncClient, published: PublishedVersion
) -> None:
    link = {"down_kbps": 1e6, "up_kbps": 8, "rtt_ms": 0}
    embedding = embedding_of(published)

    for values in (text(embedding), embedding.tolist()):
        content = json.dumps(body(published, values, link=link)).encode()
        answer = await client.post(URL, content=content, headers={"content-type": JSON})

        size = TABLE.package_bytes(ParameterPackage.decode(answer.content, TABLE).representation)
        network_ms = Link(**link).exchange_ms(request_bytes=len(content), response_bytes=size)
        assert float(answer.headers["duet-network-ms"]) == pytest.approx(network_ms, abs=0.01)


WRONG = {
    "empty": "",
    "short": "AAAA",
    "no-base64": "?",
    "nan": text(np.full(EMBEDDING, np.nan, "<f2")),
    "few-numbers": [0.5] * (EMBEDDING - 1),
    "many-numbers": [0.5] * (EMBEDDING + 1),
    "beyond-float16": [7e4] * EMBEDDING,
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG.keys())
async def test_what_is_no_embedding_of_the_version_is_refused(
    client: httpx.AsyncClient, published: PublishedVersion, values: object
) -> None:
    answer = await client.post(URL, json=body(published, values))

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_embedding")
    assert answer.json()["remedy"].endswith("or the sample.")


@pytest.mark.parametrize(
    "fields",
    [{}, {"sample": SAMPLE, "embedding": {}}, {"embedding": None}, {"sample": SAMPLE, "embedding": None}],
    ids=["neither", "both", "null", "sample-and-null"],
)
async def test_a_request_brings_exactly_one_of_sample_and_embedding(
    client: httpx.AsyncClient, fields: dict[str, Any], published: PublishedVersion
) -> None:
    if fields.get("embedding") == {}:
        fields = body(published, sample=SAMPLE)

    answer = await client.post(URL, json=ASKED | fields)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_an_embedding_that_leads_to_nothing_finite_is_its_senders_mistake(
    client: httpx.AsyncClient, published: PublishedVersion
) -> None:
    accepts = {"forms": ["factors"], "dtypes": ["float16"]}

    answer = await client.post(URL, json=body(published, HUGE, accepts=accepts))

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_embedding")


async def test_an_embedding_by_another_encoder_is_told_which_one_to_use(
    client: httpx.AsyncClient, published: PublishedVersion
) -> None:
    asked = body(published)
    asked["embedding"]["version"] = "0" * 32

    problem = (await client.post(URL, json=asked)).json()

    assert (problem["status"], problem["code"]) == (409, "wrong_encoder")
    assert (problem["version"], problem["served"], problem["received"]) == ("v1", published.digest.hex(), "0" * 32)


async def test_a_version_that_declares_none_takes_no_embedding_and_serves_samples_as_before(tmp_path: Path) -> None:
    undeclared(write_version(tmp_path))
    async with served(tmp_path) as (client, _):
        published = Registry(tmp_path).open("tiny", "v1")

        refused = await client.post(URL, json=body(published))
        sampled = await client.post(URL, json=ASKED | {"sample": SAMPLE})

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_embedding")
    assert refused.json()["remedy"] == "Send the sample."
    assert sampled.status_code == 200


async def test_each_device_is_asked_for_the_embedding_of_the_version_it_gets(tmp_path: Path) -> None:
    """Through a canary, a rollover and a rollback: an embedding never chooses the version."""
    old, new = (write_version(tmp_path, version=version, seed=seed) for seed, version in enumerate(("v1", "v2")))
    registry = Registry(tmp_path)
    registry.activate("tiny", "v1")
    registry.start_canary("tiny", "v2", 50)
    canary = registry.pin("tiny").canary
    assert canary is not None
    devices = {canary.takes("tiny", name): name for name in "abcdefgh"}

    async def statuses(client: httpx.AsyncClient) -> list[tuple[int, int]]:
        """What devices outside and inside the canary get for embeddings of the old and of the new version."""
        asked = [body(version, device=devices[is_in]) for is_in in (False, True) for version in (old, new)]
        told = [(await client.post(URL, json=each)).status_code for each in asked]
        return [(told[0], told[1]), (told[2], told[3])]

    async with served(tmp_path) as (client, gateway):
        on_trial = await statuses(client)
        registry.activate("tiny", "v2")
        await gateway.catalog.refresh()
        rolled_over = await statuses(client)
        registry.rollback("tiny")
        await gateway.catalog.refresh()
        rolled_back = await statuses(client)

    assert on_trial == [(200, 409), (409, 200)]
    assert rolled_over == [(409, 200), (409, 200)]
    assert rolled_back == [(200, 409), (200, 409)]


class Bridge(httpx.BaseTransport):
    """Carries the requests of a device in a thread to an application in this event loop."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client, self._loop = client, asyncio.get_running_loop()
        self.bodies: list[bytes] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(request.read())
        asked = self._client.request(request.method, request.url, content=request.content, headers=request.headers)
        answer = asyncio.run_coroutine_threadsafe(asked, self._loop).result(30)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


async def test_a_device_gets_the_same_for_its_embedding_and_follows_a_rollover(tmp_path: Path) -> None:
    for seed, version in enumerate(("v1", "v2")):
        write_version(tmp_path, version=version, seed=seed)
    registry = Registry(tmp_path)
    registry.activate("tiny", "v1")
    async with served(tmp_path) as (client, gateway):
        bridge = Bridge(client)
        options = {"cache": tmp_path / "cache", "transport": bridge, "budget_ms": 10_000, "timeout_s": 30}
        sampling = DuetDevice("http://test", "tiny", device_id="a", **options)
        embedding = DuetDevice("http://test", "tiny", device_id="b", sends="embedding", **options)

        for version in ("v1", "v2"):
            registry.activate("tiny", version)
            await gateway.catalog.refresh()
            expected = await asyncio.to_thread(sampling.update, SAMPLE, raise_on_error=True)
            before = len(bridge.bodies)
            update = await asyncio.to_thread(embedding.update, SAMPLE, raise_on_error=True)
            again = await asyncio.to_thread(embedding.update, SAMPLE, raise_on_error=True)

            assert (update.status, again.status, update.representation) == ("updated", "kept", expected.representation)
            assert embedding.manifest.version == version
            # the rounding moves scores by some 3e-4 here, and the generated parameters by more than 2
            expected_scores = sampling.model.scores(SAMPLE)
            np.testing.assert_allclose(embedding.model.scores(SAMPLE), expected_scores, rtol=0, atol=2e-3)
            assert np.abs(embedding.model.with_shared().scores(SAMPLE) - expected_scores).max() > 1
            assert not [content for content in bridge.bodies[before:] if b"sample" in content]


async def test_no_embedding_counts_against_a_canary(tmp_path: Path) -> None:
    for seed, version in enumerate(("v1", "v2")):
        write_version(tmp_path, version=version, seed=seed)
    registry = Registry(tmp_path)
    registry.activate("tiny", "v1")
    registry.start_canary("tiny", "v2", 99.9)
    accepts = {"forms": ["factors"], "dtypes": ["float16"]}

    async with served(tmp_path) as (client, gateway):
        for version in ("v1", "v2"):
            refused = await client.post(URL, json=body(registry.open("tiny", version), HUGE, accepts=accepts))
            assert 400 <= refused.status_code < 500
        state = gateway.catalog.state("tiny")

    assert state.canary is not None
    # the one that was computed is counted, as a success: what it led to was of its sender's making
    assert (state.canary.counted.requests, state.canary.counted.failures) == (1, 0)
