"""With keys every route but the probes asks for one; with a signing key packages and manifests carry a signature."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.access import OPEN_PATHS, Access, check_key_files
from app.api import build_api
from app.gateway import Gateway
from app.keys import create_key, write_keys
from app.metadata import MetadataReader
from app.settings import AppSettings
from duet.protocol.access_errors import InvalidKeyFile
from duet.protocol.signing import HEADER, SigningKey, check_signature, write_signing_keys
from tests.app.gateway_requests import SAMPLE

URL = "/v1/models/tiny/parameters"
BODY = {"device": "phone", "sample": SAMPLE, "link": "wifi"}
SIGNING = SigningKey("test-1", bytes(32))


@pytest.fixture
def settings(tmp_path: Path, models: Path) -> AppSettings:
    signing = tmp_path / "signing-keys.jsonl"
    write_signing_keys(signing, [SIGNING])
    return AppSettings(models=str(models), api_keys=str(tmp_path / "api-keys.jsonl"), signing_keys=str(signing))


@pytest.fixture
def key(settings: AppSettings) -> str:
    text, key = create_key(rate_per_s=0.001, burst=3)
    assert settings.api_keys is not None
    write_keys(Path(settings.api_keys), [key])
    return text


@pytest.fixture
async def client(gateway: Gateway, settings: AppSettings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    app = build_api(
        gateway,
        body_limit_bytes=10_000,
        metadata=MetadataReader(settings, endpoints=list),
        access=Access.from_settings(settings),
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_every_documented_path_but_the_probes_asks_for_a_key(client: httpx.AsyncClient, key: str) -> None:
    document = (await client.get("/openapi.json", headers=bearer(key))).json()
    operations = [(method, path) for path, methods in document["paths"].items() for method in methods]

    others = [("GET", "/openapi.json"), ("GET", "/nothing"), ("GET", "/livez/"), ("GET", "//livez"), ("GET", "/LIVEZ")]
    answers = {
        (method, path): await client.request(method, path.replace("{model}", "tiny"))
        for method, path in operations + others
    }

    refused = {place for place, answer in answers.items() if answer.status_code == 401}
    assert {path for _, path in answers.keys() - refused} == OPEN_PATHS
    for place in refused:
        assert answers[place].json()["type"] == "urn:duet:problem:unauthorized"
        assert answers[place].headers["www-authenticate"] == "Bearer"
        assert answers[place].headers["content-type"] == "application/problem+json"
        assert answers[place].headers["x-request-id"] == answers[place].json()["request_id"]


async def test_a_key_opens_and_its_rate_closes(client: httpx.AsyncClient, key: str) -> None:
    answers = [await client.post(URL, json=BODY, headers=bearer(key)) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].json()["code"] == "rate_limited"
    assert 990 <= int(answers[3].headers["retry-after"]) <= 1000
    assert (await client.get("/livez")).status_code == 200


async def test_a_body_is_not_read_before_the_key(client: httpx.AsyncClient) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"{}"

    answer = await client.post(URL, content=body(), headers={"content-type": "application/json"})

    assert (answer.status_code, read) == (401, 0)


@pytest.mark.parametrize("accept", ["application/vnd.duet.package", "application/json", "application/onnx"])
async def test_the_body_of_a_package_is_signed_as_it_is_sent(client: httpx.AsyncClient, key: str, accept: str) -> None:
    answer = await client.post(URL, json=BODY, headers=bearer(key) | {"accept": accept})

    assert answer.status_code == 200
    check_signature(answer.content, answer.headers[HEADER], [SIGNING])


async def test_a_manifest_is_signed_and_names_the_hash_of_the_device_model(client: httpx.AsyncClient, key: str) -> None:
    manifest = await client.get("/v1/models/tiny", headers=bearer(key))

    check_signature(manifest.content, manifest.headers[HEADER], [SIGNING])


async def test_what_needed_a_key_is_not_kept_by_shared_caches(client: httpx.AsyncClient, key: str) -> None:
    manifest = await client.get("/v1/models/tiny?version=v1", headers=bearer(key))

    assert manifest.headers["cache-control"] == "max-age=31536000, immutable"


async def test_without_settings_nobody_is_asked_and_nothing_is_signed(gateway: Gateway) -> None:
    app = build_api(
        gateway,
        body_limit_bytes=10_000,
        metadata=MetadataReader(AppSettings(), endpoints=list),
        access=Access.from_settings(AppSettings()),
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post(URL, json=BODY)

    assert answer.status_code == 200
    assert HEADER not in answer.headers


def test_a_file_that_lets_nobody_in_is_refused_before_anything_starts(settings: AppSettings) -> None:
    assert settings.api_keys is not None
    write_keys(Path(settings.api_keys), [])

    with pytest.raises(InvalidKeyFile, match="duet keys create"):
        check_key_files(settings)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
