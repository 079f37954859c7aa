"""Over real HTTP: both placements answer devices, and whatever comes in gets a 4xx that says what to do."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import yaml
from onnx import numpy_helper

from app.ports import free_port
from app.server import RunningServer, start
from app.settings import AppSettings
from duet.device.runtime import DeviceModel
from duet.protocol.package import MEDIA_TYPE, ParameterPackage
from duet.protocol.representation import Dtype
from duet.registry import PublishedVersion, Registry
from tests.cluster.exported import AFTER_TROUBLE
from tests.cluster.queries import asked
from tests.integration.scraped import Values, names_until, scraped_until, value
from tests.published_version import (
    ITEM_IDS,
    LENGTH,
    SIGNATURE,
    TABLE,
    shared_parameters,
    split_values,
    write_version,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.serve

ROOT = Path(__file__).resolve().parents[2]
URL = "/v1/models/tiny/parameters"
BODY: dict[str, Any] = {"device": "phone", "sample": list(ITEM_IDS[:4]), "link": "wifi", "budget_ms": 10_000}
JSON = {"content-type": "application/json"}
START_S = 120
STOP_S = 90


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("served")
    write_version(models, version="v1", seed=0)
    return models


@pytest.fixture(scope="module")
def published(repository: Path) -> PublishedVersion:
    return Registry(repository).open("tiny", "v1")


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RunningServer]:
    with start(AppSettings(models=str(repository), refresh_s=0.1), port=0, num_cpus=2) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
        # whatever the test has sent, the server is up
        assert client.get("/readyz").status_code == 200


def test_a_device_gets_better_scores_than_its_own_shared_ones_from_a_package(
    client: httpx.Client, published: PublishedVersion
) -> None:
    device = DeviceModel.load(client.get("/v1/models/tiny/device-model").content)
    shared = device.scores(BODY["sample"])

    answer = client.post(URL, json=BODY)
    package = ParameterPackage.decode(answer.content, device.table, version=published.digest)
    device.swap(package.compose(device.shared))

    assert answer.status_code == 200
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert np.abs(device.scores(BODY["sample"]) - shared).max() > 0.1


def test_every_representation_scores_on_the_device_as_computed_in_the_cloud(
    client: httpx.Client, published: PublishedVersion
) -> None:
    device = DeviceModel.load(published.path("device.onnx"))
    finished = DeviceModel.load(client.post(URL, json=BODY, headers={"accept": "application/onnx"}).content)
    np.testing.assert_allclose(finished.scores(BODY["sample"]), computed_scores(published, "full"), atol=1e-4)
    for form in ("factors", "full", "composed"):
        for dtype in ("float32", "float16", "int8"):
            asked = BODY | {"accepts": {"forms": [form], "dtypes": [dtype]}}
            package = ParameterPackage.decode(client.post(URL, json=asked).content, TABLE)
            device.swap(package.compose(shared_parameters(seed=0)))
            scores = device.scores(BODY["sample"])

            assert (package.representation.form.name, package.representation.dtype.name) == (
                form.upper(),
                dtype.upper(),
            )
            # factors and their composition are the same parameters
            expected = computed_scores(published, "full" if form == "full" else "factors")
            tolerance = {Dtype.FLOAT32: 1e-4, Dtype.FLOAT16: 1e-2, Dtype.INT8: 0.15}[package.representation.dtype]
            np.testing.assert_allclose(scores, expected, atol=tolerance)


def embedded(published: PublishedVersion) -> dict[str, Any]:
    """The request for the parameters of the same sample, with its embedding."""
    encoder = onnxruntime.InferenceSession(published.path("encoder.onnx"), providers=["CPUExecutionProvider"])
    ((embedding,),) = encoder.run(["embedding"], SIGNATURE.arrays([BODY["sample"]], published.vocabulary()))
    values = base64.b64encode(embedding.astype("<f2").tobytes()).decode()
    request = BODY | {"embedding": {"version": published.digest.hex(), "values": values}}
    del request["sample"]
    return request


def test_an_embedding_gets_what_its_sample_gets(client: httpx.Client, published: PublishedVersion) -> None:
    answers = [client.post(URL, json=body) for body in (BODY, embedded(published))]

    first, second = (ParameterPackage.decode(answer.content, TABLE, version=published.digest) for answer in answers)
    assert client.get("/v1/models/tiny/encoder").content == published.path("encoder.onnx").read_bytes()
    assert first.tag != second.tag
    for name, layer in first.values().items():
        # eight numbers, rounded by 2^-12 at most, times weights of a deviation of 0.5
        np.testing.assert_allclose(second.values()[name].weight, layer.weight, rtol=0, atol=4e-3)


def test_a_replica_writes_its_log_with_time_level_and_logger(server: RunningServer) -> None:
    lines = [line for file in server.logs.glob("worker-*.err") for line in file.read_text().splitlines()]

    said = [line for line in lines if line.endswith(": Model tiny is served at version v1")]
    assert said
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00 INFO app\.catalog: ", line) for line in said)


def computed_scores(published: PublishedVersion, head: str) -> np.ndarray:
    """Compute the scores from the tensors of the published files with numpy alone, by the formulas of the version."""
    encoder, device = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(published.path(name)).graph.initializer}
        for name in ("encoder.onnx", "device.onnx")
    )
    generator = safetensors.numpy.load_file(published.path("generator.safetensors"))
    # items are numbered from 1; what is missing of the length is padding, whose row is zero
    places = [ITEM_IDS.index(item) + 1 for item in BODY["sample"]]
    embedding = np.tanh(encoder["table"][places].sum(axis=0) / LENGTH @ encoder["projection"])
    values = split_values(embedding @ generator[f"{head}.weight"].T + generator[f"{head}.bias"], head)
    features = device["table"][places].sum(axis=0) / LENGTH
    for layer in TABLE:
        made = values[layer.name]
        residual = made.weight if head == "full" else made.left.T @ made.right
        weight = generator[f"shared.{layer.name}.weight"] + residual
        features = weight @ features + generator[f"shared.{layer.name}.bias"] + made.shift
        if layer.name == "hidden":
            features = np.maximum(features, 0)
    return features


def test_an_answer_splits_its_time(client: httpx.Client) -> None:
    headers = client.post(URL, json=BODY).headers

    stages = dict(part.split(";dur=") for part in headers["server-timing"].split(", "))
    assert list(stages) == ["queue", "encode", "generate", "compose"]
    assert 0 < sum(map(float, stages.values())) <= float(headers["duet-server-ms"]) + 0.1
    assert float(headers["duet-predicted-ms"]) >= float(headers["duet-network-ms"])


def test_what_the_device_holds_is_answered_without_a_body(client: httpx.Client) -> None:
    first = client.post(URL, json=BODY)

    current = {"version": first.headers["duet-version"], "tag": first.headers["duet-tag"], "age_s": 3}
    second = client.post(URL, json=BODY | {"current": current})

    assert (second.status_code, second.content) == (204, b"")
    assert second.headers["duet-plan"] == "keep"


def test_a_budget_that_is_too_small_says_what_would_do(client: httpx.Client) -> None:
    refusal = client.post(URL, json=BODY | {"link": "slow-3g", "budget_ms": 50})

    raised = client.post(URL, json=BODY | {"link": "slow-3g", "budget_ms": refusal.json()["smallest_ms"] + 50})

    assert (refusal.status_code, refusal.json()["code"]) == (422, "budget_too_small")
    assert raised.status_code == 200


def test_a_new_version_is_served_without_a_restart(client: httpx.Client, repository: Path) -> None:
    write_version(repository, version="v2", seed=2)
    try:
        versions = []
        deadline = time.monotonic() + 30
        while "v2" not in versions and time.monotonic() < deadline:
            answer = client.post(URL, json=BODY)
            assert answer.status_code == 200
            versions.append(answer.headers["duet-model-version"])
        assert versions == sorted(versions)
        assert versions[-1] == "v2"
    finally:
        Registry(repository).activate("tiny", "v1")
        wait_until(lambda: client.get("/readyz").json()["models"] == {"tiny": "v1"}, "the first version is back")


def deep(depth: int) -> bytes:
    return b'{"device": "phone", "sample": ' + b"[" * depth + b"]" * depth + b"}"


BAD_SAMPLES: dict[str, Any] = {
    "a-text": "101,102",
    "an-object": {"items": [101]},
    "null": None,
    "a-number": 101,
    "booleans": [True],
    "fractions": [101.5],
    "nested": [[101]],
    "empty": [],
    "too-long": [101] * (SIGNATURE.max_items + 1),
    "unknown-ids": ["nobody", 999_999],
}


@pytest.mark.parametrize("sample", BAD_SAMPLES.values(), ids=BAD_SAMPLES.keys())
def test_a_sample_that_the_signature_refuses_is_422_with_a_remedy(client: httpx.Client, sample: object) -> None:
    problem(client.post(URL, json=BODY | {"sample": sample}), 422, "invalid_sample", "remedy")


BAD_BODIES = {
    "truncated": (json.dumps(BODY).encode()[:-10], 400, "invalid_request"),
    "no-body": (b"", 400, "invalid_request"),
    "not-json": (b"sample=101&device=phone", 400, "invalid_request"),
    "not-text": (b"\xff\xfe\x00\x80" * 10, 400, "invalid_request"),
    "nan-in-the-sample": (b'{"device": "phone", "sample": [NaN]}', 422, "invalid_sample"),
    "nan-in-the-budget": (b'{"device": "phone", "sample": [101], "budget_ms": NaN}', 400, "invalid_request"),
    "deeply-nested": (deep(100_000), 400, "invalid_request"),
    "nested-just-readable": (deep(100), 422, "invalid_sample"),
    "ten-megabytes": (b'{"device": "phone", "sample": [' + b"101," * 2_500_000 + b"101]}", 413, "body_too_large"),
    "misspelt-field": (json.dumps(BODY | {"budgetms": 3}).encode(), 400, "invalid_request"),
}


@pytest.mark.parametrize(("content", "status", "code"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_body_that_cannot_be_read_is_a_4xx(client: httpx.Client, content: bytes, status: int, code: str) -> None:
    problem(client.post(URL, content=content, headers=JSON), status, code)


def test_ten_megabytes_without_a_declared_length_are_cut_off(client: httpx.Client) -> None:
    pieces = (b"x" * 65_536 for _ in range(160))

    answer = client.post(URL, content=pieces, headers=JSON)

    problem(answer, 413, "body_too_large", "limit_bytes")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/x-python", ""]
)
def test_another_content_type_is_415(client: httpx.Client, content_type: str) -> None:
    answer = client.post(URL, content=json.dumps(BODY), headers={"content-type": content_type})

    problem(answer, 415, "unsupported_media_type", "expected")


def test_an_answer_type_that_is_not_made_is_406(client: httpx.Client) -> None:
    problem(client.post(URL, json=BODY, headers={"accept": "image/png"}), 406, "not_acceptable", "offered")


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_load_balancer_may_ask_with_head(client: httpx.Client, path: str) -> None:
    answer = client.head(path)

    assert (answer.status_code, answer.content) == (200, b"")


def test_a_compressed_body_is_415(client: httpx.Client) -> None:
    answer = client.post(URL, json=BODY, headers={"content-encoding": "gzip"})

    problem(answer, 415, "unsupported_media_type", "expected")
    assert answer.headers["accept-encoding"] == "identity"


def test_what_is_no_request_of_ours_is_answered_as_a_problem(client: httpx.Client) -> None:
    strange_id = client.get("/livez", headers={"x-request-id": b"\xff\xfe"})
    method = client.request("BREW", "/livez")

    assert (strange_id.status_code, strange_id.headers["x-request-id"]) == (200, "??")
    problem(method, 400, "invalid_request")


def test_an_unknown_model_is_404_and_the_known_ones_are_named(client: httpx.Client) -> None:
    answer = client.post("/v1/models/films/parameters", json=BODY)

    problem(answer, 404, "unknown_model", "known")
    assert answer.json()["known"] == ["tiny"]


def test_a_client_that_hangs_up_hurts_nobody(client: httpx.Client, server: RunningServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for sent in (b"POST ", b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", b"\x16\x03\x01\x02\x00", b"\r\n" * 100):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(sent)

    assert client.post(URL, json=BODY).status_code == 200


def problem(answer: httpx.Response, status: int, code: str, *facts: str) -> None:
    document = answer.json()
    assert (answer.status_code, document["status"], document["code"]) == (status, status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["request_id"] == answer.headers["x-request-id"]
    # expected, arrived, remedy: more than one sentence
    assert document["detail"].count(". ") >= 1
    assert set(facts) <= set(document)


def test_serve_run_starts_the_split_placement_of_serve_config(repository: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    config["http_options"]["port"] = port = free_port("127.0.0.1", 0)
    (tmp_path / "serve_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "models").symlink_to(repository)
    with serve_run(tmp_path) as run, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        wait_until(lambda: is_ready(client) or run.poll() is not None, "it is ready", patience_s=START_S)
        assert run.poll() is None, (tmp_path / "log").read_text()
        answer = client.post(URL, json=BODY)
        of_embedding = client.post(URL, json=embedded(Registry(repository).open("tiny", "v1")))
        refusal = client.post(URL, json=BODY | {"sample": []})
        counts = scraped_until(str(client.base_url), lambda values: refusals(values) == 1)
        wanted = asked() - AFTER_TROUBLE
        assert names_until(str(client.base_url), wanted) >= wanted

    package = ParameterPackage.decode(answer.content, TABLE)
    assert answer.status_code == 200
    assert str(package.representation) == answer.headers["duet-plan"]
    assert "generate;dur=" in answer.headers["server-timing"]
    problem(refusal, 422, "invalid_sample", "remedy")
    assert refusals(counts) == 1
    assert value(counts, "stage_ms_count", model="tiny", stage="generate") == 2
    values, again = (ParameterPackage.decode(each.content, TABLE).values() for each in (answer, of_embedding))
    for name in values:
        np.testing.assert_allclose(again[name].weight, values[name].weight, rtol=0, atol=4e-3)


def refusals(values: Values) -> float | None:
    return value(values, "refusals_total", model="tiny", reason="invalid_sample")


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def serve_run(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `serve run` as an operator does, and stop it with the whole Ray that it has started."""
    command = [str(Path(sys.executable).with_name("serve")), "run", "serve_config.yaml"]
    # what this process has set for its own server is not in an operator's shell
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # a Ray of its own, also where another one runs
    environment |= {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    with (folder / "log").open("wb") as log:
        run = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield run
        finally:
            # at SIGINT Serve would drain first, which is its own affair and takes long
            run.terminate()
            with suppress(subprocess.TimeoutExpired):
                run.wait(STOP_S)
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
