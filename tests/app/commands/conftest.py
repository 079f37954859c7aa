"""A folder of published models, and a cloud that answers from it over HTTP without generating anything."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from duet.protocol.package import LayerValues, encode_body, seal
from duet.protocol.representation import Dtype, Form, Representation
from duet.protocol.signing import SigningKey
from duet.registry import PublishedVersion
from tests.published_version import TABLE, write_version

REPRESENTATION = Representation(Form.FACTORS, Dtype.INT8, 2)


class FakeCloud:
    """Answers every request for parameters with the same package, or with what a test puts into ``status``."""

    def __init__(self, version: PublishedVersion) -> None:
        self.serve(version)
        self.requests: list[dict[str, object]] = []
        self.status = 200
        self.problem: dict[str, object] = {}
        self.missing: dict[str, object] = {}
        self.rollout: dict[str, object] = {}
        self.downloads = 0
        self.paths: list[str] = []
        self.authorizations: set[str | None] = set()
        self.signing_key: SigningKey | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def serve(self, version: PublishedVersion) -> None:
        """Answer with parameters of this version from now on."""
        self.version = version
        self.package = seal(
            encode_body(_values(), REPRESENTATION, TABLE),
            representation=REPRESENTATION,
            version=version.digest,
            table=TABLE,
            tag=bytes(range(8)),
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedVersion:
    return write_version(tmp_path_factory.mktemp("published"), "tiny", "v1")


@pytest.fixture
def cloud(published: PublishedVersion) -> Iterator[FakeCloud]:
    cloud = FakeCloud(published)
    cloud.start()
    yield cloud
    cloud.stop()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository of one model with two versions."""
    write_version(tmp_path, "tiny", "v1")
    write_version(tmp_path, "tiny", "v2", seed=1)
    return tmp_path


def with_text_ids(version: PublishedVersion, folder: Path) -> PublishedVersion:
    """The same version, but its manifest says that ids are strings."""
    folder.mkdir()
    manifest = replace(version.manifest, signature={**version.manifest.signature, "item_type": "string"})
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return replace(version, folder=folder, manifest=manifest, manifest_bytes=manifest.to_bytes())


def _values() -> dict[str, LayerValues]:
    random = np.random.default_rng(0)
    return {
        layer.name: LayerValues(
            left=random.normal(size=(2, layer.outputs)).astype(np.float32),
            right=random.normal(size=(2, layer.inputs)).astype(np.float32),
            shift=random.normal(size=layer.outputs).astype(np.float32),
        )
        for layer in TABLE
    }


def _handler(cloud: FakeCloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Routes what the commands ask for."""

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            cloud.requests.append(json.loads(self.rfile.read(length)))
            if cloud.status != 200:
                self._answer(cloud.status, json.dumps(cloud.problem).encode(), {"Retry-After": "1"})
                return
            headers = {
                "Duet-Plan": str(REPRESENTATION),
                "Duet-Predicted-Ms": "81.5",
                "Duet-Network-Ms": "71.5",
                "Duet-Server-Ms": "3.2",
                "Duet-Version": cloud.version.digest.hex(),
                "Duet-Model-Version": cloud.version.version,
                "Duet-Tag": bytes(range(8)).hex(),
                "Server-Timing": "queue;dur=0.1, encode;dur=0.4, generate;dur=2.5, compose;dur=0.2",
            }
            self._answer(200, cloud.package, headers)

        def do_GET(self) -> None:
            cloud.paths.append(self.path)
            if cloud.missing:
                self._answer(404, json.dumps(cloud.missing).encode(), {})
                return
            if self.path.endswith("/rollout"):
                self._answer(200, json.dumps(cloud.rollout).encode(), {})
                return
            is_download = "/device-model" in self.path
            cloud.downloads += is_download
            graphs = {"device-model": "device.onnx", "encoder": "encoder.onnx"}
            name = graphs.get(self.path.split("?")[0].split("/")[-1], "manifest.json")
            self._answer(200, (cloud.version.folder / name).read_bytes(), {})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            cloud.authorizations.add(self.headers["Authorization"])
            if cloud.signing_key is not None:
                headers = headers | {"Duet-Signature": cloud.signing_key.sign(body)}
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if status != 204:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler
