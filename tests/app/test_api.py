"""The API tells status, headers and remedies as its OpenAPI document says. In process, against the real stages."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.api import build_api
from app.builder import _colocated
from app.gateway import Gateway
from app.metadata import MetadataReader
from app.problems import MEDIA_TYPE as PROBLEM
from app.problems import STATUS
from app.settings import AppSettings
from app.telemetry import Telemetry
from app.tracing import Tracing
from duet.protocol import errors
from duet.protocol.package import MEDIA_TYPE, ParameterPackage
from duet.registry import PublishedVersion, Registry
from tests.published_version import ITEM_IDS, TABLE, write_version

URL = "/v1/models/tiny/parameters"
BODY: dict[str, Any] = {"device": "phone", "sample": list(ITEM_IDS[:3]), "link": "wifi", "budget_ms": 5000}
LIMIT_BYTES = 50_000


@pytest.fixture
async def app(models: Path) -> AsyncIterator[FastAPI]:
    settings = AppSettings(models=str(models))
    gateway = Gateway(settings, _colocated(settings))
    await gateway.start()
    metadata = MetadataReader(settings, endpoints=lambda: ["http://192.0.2.1:8080/metrics"])
    yield build_api(gateway, body_limit_bytes=LIMIT_BYTES, metadata=metadata)
    await gateway.catalog.stop()


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_an_answer_is_a_package_for_this_version(client: httpx.AsyncClient, published: PublishedVersion) -> None:
    answer = await client.post(URL, json=BODY)

    package = ParameterPackage.decode(answer.content, TABLE, version=published.digest)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert package.tag.hex() == answer.headers["duet-tag"]
    assert str(package.representation) == answer.headers["duet-plan"]


async def test_the_openapi_document_describes_every_operation_and_how_it_fails(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    operations = {path: operation for path, methods in document["paths"].items() for operation in methods.values()}
    statuses = {path: set(operation["responses"]) for path, operation in operations.items()}
    outside = {errors.UnknownVersion}  # a version is not named when generating
    assert set(operations) == {
        URL.replace("tiny", "{model}"),
        "/v1/models",
        "/v1/models/{model}",
        "/v1/models/{model}/device-model",
        "/v1/models/{model}/decoders",
        "/v1/models/{model}/encoder",
        "/v1/models/{model}/model-card",
        "/v1/models/{model}/rollout",
        "/livez",
        "/readyz",
        "/metadata",
    }
    assert statuses[URL.replace("tiny", "{model}")] == {
        "200",
        "204",
        *(str(status) for error, status in STATUS.items() if error not in outside),
    }
    for operation in operations.values():
        assert operation["summary"]
        for status, response in operation["responses"].items():
            assert int(status) < 400 or set(response["content"]) == {PROBLEM}


async def test_every_reference_of_the_openapi_document_leads_somewhere(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    names = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
    assert {"ParametersRequest", "PackageAnswer", "Problem"} <= names


@pytest.mark.parametrize("path", ["", "/device-model", "/encoder", "/model-card"])
async def test_a_file_that_the_client_holds_is_not_sent_again(client: httpx.AsyncClient, path: str) -> None:
    path = f"/v1/models/tiny{path}"

    first = await client.get(path)
    tag = first.headers["etag"]

    again = [await client.get(path, headers={"if-none-match": held}) for held in (tag, f'W/{tag}, "x"', "*", '"other"')]

    assert [answer.status_code for answer in again] == [304, 304, 304, 200]
    assert again[0].content == b""
    assert again[0].headers["etag"] == tag


async def test_the_model_card_is_markdown_and_the_published_file(
    client: httpx.AsyncClient, published: PublishedVersion
) -> None:
    answer = await client.get("/v1/models/tiny/model-card")

    assert answer.headers["content-type"].startswith("text/markdown")
    assert answer.content == published.path("model_card.md").read_bytes()


async def test_the_manifest_and_the_graphs_are_the_published_bytes(
    client: httpx.AsyncClient, published: PublishedVersion
) -> None:
    manifest = await client.get("/v1/models/tiny")
    graphs = {
        name: await client.get(f"/v1/models/tiny/{path}", params={"version": "v1"})
        for path, name in (("device-model", "device.onnx"), ("encoder", "encoder.onnx"))
    }

    assert manifest.content == published.manifest_bytes
    for name, graph in graphs.items():
        assert graph.content == published.path(name).read_bytes()
        assert manifest.headers["duet-version"] == graph.headers["duet-version"] == published.digest.hex()
        # an active version may change, a named one never does
        assert "immutable" in graph.headers["cache-control"]
    assert manifest.headers["cache-control"] == "no-cache"


async def test_the_manifest_is_documented_as_the_object_that_it_is(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    (content,) = document["paths"]["/v1/models/{model}"]["get"]["responses"]["200"]["content"].items()
    assert content == ("application/json", {"schema": {"type": "object"}})
    assert isinstance((await client.get("/v1/models/tiny")).json(), dict)


async def test_probes_and_lists(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livez")).json()["status"] == "alive"
    assert (await client.get("/readyz")).json() == {"status": "ready", "models": {"tiny": "v1"}}
    tiny = {"name": "tiny", "active": "v1", "canary": None, "versions": ["v1"]}
    assert (await client.get("/v1/models")).json() == {"models": [tiny]}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v1/models"])
async def test_head_is_answered_like_get_without_a_body(client: httpx.AsyncClient, path: str) -> None:
    head, get = await client.head(path), await client.get(path)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["content-length"] == str(len(get.content))


async def test_a_compressed_body_is_refused_with_what_would_be_read(client: httpx.AsyncClient) -> None:
    refused = await client.post(URL, json=BODY, headers={"content-encoding": "gzip"})
    plain = await client.post(URL, json=BODY, headers={"content-encoding": "identity"})

    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")
    assert "gzip" in refused.json()["detail"]
    assert "identity" in refused.json()["detail"]
    assert refused.headers["accept-encoding"] == "identity"
    assert plain.status_code == 200


@pytest.mark.parametrize(
    ("types", "status"),
    [(("application/json", "text/plain"), 200), (("text/plain", "application/json"), 415)],
)
async def test_of_a_header_that_comes_twice_the_first_counts(
    client: httpx.AsyncClient, types: tuple[str, str], status: int
) -> None:
    headers = [("Content-Type", each) for each in types]

    assert (await client.post(URL, content=json.dumps(BODY), headers=headers)).status_code == status


@pytest.mark.parametrize(("method", "suffix"), [("POST", "/parameters"), ("GET", ""), ("GET", "/encoder")])
async def test_a_name_that_is_too_long_is_refused_and_not_sent_back(
    client: httpx.AsyncClient, method: str, suffix: str
) -> None:
    answer = await client.request(method, f"/v1/models/{'m' * 3000}{suffix}", json=BODY)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert answer.json()["detail"].startswith("model: expected text of length 64 or less, got")
    assert answer.text.count("m" * 61) == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not_found"),
        ("GET", URL, 405, "method_not_allowed"),
        ("GET", "/v1/models/films", 404, "unknown_model"),
        ("GET", "/v1/models/..%2f..%2fetc", 404, "not_found"),
        ("GET", "/v1/models/.hidden", 404, "unknown_model"),
        ("GET", "/v1/models/tiny?version=v9", 404, "unknown_version"),
        ("GET", "/v1/models/tiny?version=../v1", 404, "unknown_version"),
        ("GET", f"/v1/models/tiny?version={'v' * 65}", 400, "invalid_request"),
    ],
)
async def test_what_is_not_there_is_a_problem(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path, headers={"x-request-id": "r-7"})

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json()["request_id"] == "r-7"


async def test_a_method_that_a_path_does_not_take_is_answered_with_those_that_it_takes(
    client: httpx.AsyncClient,
) -> None:
    answers = [await client.request(*wrong) for wrong in (("GET", URL), ("PUT", "/livez"), ("HEAD", URL))]

    assert [answer.status_code for answer in answers] == [405] * 3
    assert [answer.headers["allow"] for answer in answers] == ["POST", "GET, HEAD", "POST"]
    assert answers[0].json()["detail"].startswith("Expected POST for")


async def test_a_damaged_version_is_not_said_to_be_loading(tmp_path: Path) -> None:
    write_version(tmp_path, version="v1")
    write_version(tmp_path, version="v2", seed=2).path("model_card.md").write_text("edited")
    Registry(tmp_path).activate("tiny", "v1")
    settings = AppSettings(models=str(tmp_path))
    gateway = Gateway(settings, _colocated(settings))
    await gateway.start()
    metadata = MetadataReader(settings, endpoints=list)
    transport = httpx.ASGITransport(build_api(gateway, body_limit_bytes=LIMIT_BYTES, metadata=metadata))

    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/v1/models/tiny", params={"version": "v2"})
    await gateway.stop()

    assert (answer.status_code, answer.json()["code"]) == (500, "corrupt_version")
    assert "etry" not in answer.text
    assert str(tmp_path) not in answer.text


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, "device: expected a value, got none"),
        (BODY | {"budget": 5}, "budget"),
        (BODY | {"budget_ms": "soon"}, "budget_ms"),
        ([], "body"),
        (BODY | {"link": {"down_kbps": -1, "up_kbps": 1, "rtt_ms": 1}}, "down_kbps"),
        (BODY | {"link": {"down_kbps": 5e-324, "up_kbps": 1, "rtt_ms": 1}}, "link.down_kbps"),
        (BODY | {"link": {"down_kbps": 1, "up_kbps": 1e-300, "rtt_ms": 1}}, "link.up_kbps"),
        (BODY | {"link": "nonsense"}, "'slow-3g', 'slow-4g', 'fast-4g', 'lte', 'wifi' or '5g'"),
    ],
    ids=["empty", "unknown-field", "wrong-type", "a-list", "nested", "no-rate", "tiny-rate", "link"],
)
async def test_an_invalid_request_names_the_field(client: httpx.AsyncClient, body: object, names: str) -> None:
    answer = await client.post(URL, json=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert names in answer.json()["detail"]
    assert not [word for word in ("literal", "LinkFields", "tag") if word in answer.json()["detail"]]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b'{"device": "x", "sample": ["\\ud800"]}',
        b'{"device": "x", "sample": [' + b"9" * 10_000 + b"]}",
        b'{"device": "x", "sample": [1e999]}',
        b'{"device": "\\u0000", "sample": [{}]}',
    ],
    ids=["no-text", "half-a-character", "huge-integer", "infinity", "control-character"],
)
async def test_odd_json_is_refused_like_any_other_mistake(client: httpx.AsyncClient, content: bytes) -> None:
    answer = await client.post(URL, content=content, headers={"content-type": "application/json"})

    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == PROBLEM


async def test_metadata_names_the_server_its_models_and_where_its_metrics_are(client: httpx.AsyncClient) -> None:
    document = (await client.get("/metadata")).json()

    assert (document["name"], document["models"]) == ("duet-serve", {"tiny": "v1"})
    assert document["metrics"] == ["http://192.0.2.1:8080/metrics"]


async def test_a_request_brings_its_id_and_its_trace_along(models: Path) -> None:
    settings, exporter = AppSettings(models=str(models)), InMemorySpanExporter()
    telemetry = Telemetry(tracing=Tracing(exporter, ratio=0.0))
    gateway = Gateway(settings, _colocated(settings), telemetry=telemetry)
    await gateway.start()
    metadata = MetadataReader(settings, endpoints=list)
    transport = httpx.ASGITransport(build_api(gateway, body_limit_bytes=LIMIT_BYTES, metadata=metadata))
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.post(URL, json=BODY, headers={"x-request-id": "r-1", "traceparent": trace})
    await gateway.stop()
    await telemetry.stop()

    request, *stages = exporter.get_finished_spans()
    assert request.attributes["duet.request_id"] == "r-1"
    assert f"00-{request.context.trace_id:032x}-{request.parent.span_id:016x}-01" == trace
    assert [stage.name for stage in stages] == ["plan", "queue", "encode", "generate", "compose"]


async def test_a_device_under_canary_is_told_its_own_version_everywhere(tmp_path: Path) -> None:
    digests = {version: write_version(tmp_path, version=version, seed=seed).digest.hex()
               for seed, version in enumerate(("v1", "v2"))}  # fmt: skip
    registry = Registry(tmp_path)
    registry.activate("tiny", "v1")
    registry.start_canary("tiny", "v2", 50)
    canary = registry.pin("tiny").canary
    gateway = Gateway(AppSettings(models=str(tmp_path)), _colocated(AppSettings(models=str(tmp_path))))
    await gateway.start()
    metadata = MetadataReader(AppSettings(), endpoints=list)
    transport = httpx.ASGITransport(build_api(gateway, body_limit_bytes=LIMIT_BYTES, metadata=metadata))

    async with httpx.AsyncClient(transport=transport, base_url="http://test/v1/models") as client:
        for device in ("a", "b", "ü", "d&e=f", "g", "h"):
            version = "v2" if canary.takes("tiny", device) else "v1"
            told = [
                await client.get("/tiny", params={"device": device}),
                await client.get("/tiny/device-model", params={"device": device}),
                await client.post("/tiny/parameters", json=BODY | {"device": device}),
            ]
            assert {answer.headers["duet-version"] for answer in told} == {digests[version]}
            ParameterPackage.decode(told[-1].content, TABLE, version=bytes.fromhex(digests[version]))
        stable = await client.get("/tiny")
        rollout = (await client.get("/tiny/rollout")).json()
        unknown = await client.get("/films/rollout")
    await gateway.catalog.stop()

    assert stable.headers["duet-model-version"] == "v1"
    (state,) = rollout["gateways"]
    assert (state["version"], state["canary"]["version"], state["canary"]["percent"]) == ("v1", "v2", 50.0)
    assert state["canary"]["counted"]["requests"] + state["canary"]["beside"]["requests"] == 6
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_model")


async def test_what_gateways_do_not_answer_is_counted(models: Path) -> None:
    settings = AppSettings(models=str(models))

    async def peers(model: str) -> list[object]:
        return [gateway.catalog.state(model), RuntimeError("died"), gateway.catalog.state(model)]

    gateway = Gateway(settings, _colocated(settings), peers=peers)
    await gateway.start()
    await gateway.catalog.stop()

    rollout = await gateway.rollouts.of("tiny")

    assert (len(rollout.gateways), rollout.silent) == (2, 1)
