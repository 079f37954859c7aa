"""What is refused before the gateway sees it is counted once, by its code; the gateway counts what it refuses."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.access import Access
from app.api import build_api
from app.gateway import Gateway
from app.keys import create_key, write_keys
from app.metadata import MetadataReader
from app.settings import AppSettings
from tests.app.gateway_requests import SAMPLE

URL = "/v1/models/tiny/parameters"
BODY = {"device": "phone", "sample": SAMPLE, "link": "wifi"}
LIMIT_BYTES = 1000


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, str]:
    text, key = create_key(rate_per_s=0.001, burst=20)
    write_keys(tmp_path / "api-keys.jsonl", [key])
    return tmp_path / "api-keys.jsonl", text


@pytest.fixture
async def client(gateway: Gateway, models: Path, keys: tuple[Path, str]) -> AsyncIterator[httpx.AsyncClient]:
    file, text = keys
    settings = AppSettings(models=str(models), api_keys=str(file))
    app = build_api(
        gateway,
        body_limit_bytes=LIMIT_BYTES,
        body_timeout_s=0.05,
        metadata=MetadataReader(settings, endpoints=list),
        access=Access.from_settings(settings),
    )
    headers = {"Authorization": f"Bearer {text}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as client:
        yield client


def counted(gateway: Gateway) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for sample in gateway.telemetry.metrics.refusals.samples()
        if sample.value
    }


async def slowly() -> AsyncGenerator[bytes, None]:
    yield b"{"
    await asyncio.Event().wait()


REQUESTS = {
    "body_too_large": {"content": b" " * (LIMIT_BYTES + 1)},
    "headers_too_large": {"json": BODY, "headers": {f"x-{number}": "1" for number in range(120)}},
    "request_too_slow": {"content": slowly(), "headers": {"content-type": "application/json"}},
    "unauthorized": {"json": BODY, "headers": {"Authorization": "Bearer duet_nobody_knows"}},
    "invalid_request": {"json": {}},
    "not_acceptable": {"json": BODY, "headers": {"Accept": "image/png"}},
    "unsupported_media_type": {"content": b"x", "headers": {"content-type": "text/plain"}},
}


@pytest.mark.parametrize("code", REQUESTS)
async def test_a_refusal_before_the_gateway_is_counted_once(
    client: httpx.AsyncClient, gateway: Gateway, code: str
) -> None:
    answer = await client.post(URL, **REQUESTS[code])

    assert answer.json()["code"] == code
    assert counted(gateway) == {("unknown", code): 1}
    (requests,) = gateway.telemetry.metrics.requests.samples()
    assert (requests.labels, requests.value) == ({"model": "unknown", "version": "unknown", "rung": "refused"}, 1)
    # nothing was timed
    assert not list(gateway.telemetry.metrics.server_ms.samples())


async def test_a_compressed_body_is_counted(client: httpx.AsyncClient, gateway: Gateway) -> None:
    answer = await client.post(URL, json=BODY, headers={"Content-Encoding": "gzip"})

    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert counted(gateway) == {("unknown", "unsupported_media_type"): 1}


async def test_what_the_gateway_refuses_is_counted_by_it_alone(client: httpx.AsyncClient, gateway: Gateway) -> None:
    await client.post("/v1/models/nothing/parameters", json=BODY)
    await client.post(URL, json=BODY | {"sample": 3})

    assert counted(gateway) == {("unknown", "unknown_model"): 1, ("tiny", "invalid_sample"): 1}


async def test_other_routes_are_counted_when_they_ask_for_a_key(client: httpx.AsyncClient, gateway: Gateway) -> None:
    await client.get("/v1/models", headers={"Authorization": "Bearer wrong"})

    assert counted(gateway) == {("unknown", "unauthorized"): 1}


async def test_the_document_says_where_a_key_is_asked_for(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    (scheme,) = document["components"]["securitySchemes"].items()
    assert document["security"] == [{scheme[0]: []}]
    assert (scheme[1]["type"], scheme[1]["scheme"]) == ("http", "bearer")
    free = {
        path
        for path, methods in document["paths"].items()
        if methods["get" if "get" in methods else "post"].get("security") == []
    }
    assert free == {"/livez", "/readyz"}
    # every other operation asks for what stands at the top
    assert "security" not in document["paths"]["/v1/models/{model}/parameters"]["post"]


async def test_without_keys_the_document_knows_of_none(gateway: Gateway, models: Path) -> None:
    app = build_api(gateway, body_limit_bytes=LIMIT_BYTES, metadata=MetadataReader(AppSettings(), endpoints=list))

    document = app.openapi()

    assert "security" not in document
    assert "securitySchemes" not in document["components"]
