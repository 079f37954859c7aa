"""A cloud over real HTTP that answers with real packages of random numbers, and can be told to answer badly."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.manifest import Manifest, Quality, RepresentationRecord, digest_of
from duet.protocol.package import MEDIA_TYPE, LayerValues, encode_body, seal, tag_of
from duet.protocol.representation import Representation
from duet.protocol.signature import SequenceSignature

TABLE = LayerTable((DynamicLayer("output", outputs=6, inputs=7),))
SIGNATURE = SequenceSignature(length=10)
FIELDS = {"device", "sample", "link", "budget_ms", "current"}
FACTORS, FULL = Representation.parse("factors-r2-int8"), Representation.parse("full-float16")


def manifest_bytes(version="v1"):
    quality = Quality("ndcg@10", "validation", 0.2, (0.1, 0.3))
    return Manifest(
        model="demo",
        version=version,
        created="2026-01-31T12:00:00+00:00",
        task="ranking",
        signature=SIGNATURE.to_json(),
        layers=TABLE,
        embedding_dim=4,
        rank=2,
        heads=("factors", "full"),
        representations=tuple(
            RepresentationRecord(each, TABLE.package_bytes(each), quality) for each in (FACTORS, FULL)
        ),
        files={},
        training={},
    ).to_bytes()


def answer(sample, *, manifest=None, representation=FACTORS, headers=None):
    """Status, headers and body of the right answer to a sample."""
    digest = digest_of(manifest_bytes() if manifest is None else manifest)
    tag = tag_of(digest, representation, SIGNATURE.canonical(sample))
    random = np.random.default_rng(list(hashlib.sha256(tag).digest()))
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    values = {"output": LayerValues(left=draw(2, 6), right=draw(2, 7), weight=draw(6, 7), shift=draw(6))}
    body = seal(
        encode_body(values, representation, TABLE), representation=representation, version=digest, table=TABLE, tag=tag
    )
    said = {
        "content-type": MEDIA_TYPE,
        "duet-version": digest.hex(),
        "duet-tag": tag.hex(),
        "duet-plan": str(representation),
        "duet-predicted-ms": "90.5",
        "duet-server-ms": "2.5",
    }
    return 200, said | (headers or {}), body


def keep(sample):
    """Status, headers and body of an answer that says to keep what is held."""
    _, headers, _ = answer(sample)
    del headers["content-type"]
    return 204, headers | {"duet-plan": "keep"}, b""


def refusal_of(body, content_type):
    """Status with which a request is refused that is wrong; None for one that is right."""
    if len(body) > 2**20:
        return 413
    if content_type != "application/json":
        return 415
    try:
        asked = json.loads(body)
    except ValueError:
        return 400
    budget_ms = asked.get("budget_ms")
    if not isinstance(budget_ms, int | float) or budget_ms <= 0 or asked.keys() - FIELDS:
        return 400
    return None if isinstance(asked["sample"], list) and asked["sample"] else 422


class ServingFake:
    """The fake as a context manager; ``respond`` may be replaced."""

    def __init__(self):
        self.manifest = manifest_bytes()
        self.models = ("demo",)
        self.asked: list[dict] = []
        self.refused: list[int] = []
        self.downloads = 0
        self.authorizations: set[str | None] = set()
        self.paths: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # head and body in one segment: two would wait 40 ms for a delayed acknowledgement
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self):
                fake.downloads += 1
                json_headers = {"content-type": "application/json"}
                if self.path == "/v1/models":
                    models = {"models": [{"name": name, "active": "v1", "versions": ["v1"]} for name in fake.models]}
                    self._send(200, json_headers, json.dumps(models).encode())
                    return
                fake.paths.append(self.path)
                is_known = self.path.partition("?")[0].rsplit("/", 1)[-1] in fake.models
                self._send(200 if is_known else 404, json_headers, fake.manifest if is_known else b"")

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                refusal = refusal_of(body, self.headers["content-type"])
                if refusal is not None:
                    fake.refused.append(refusal)
                    self._send(refusal, {"content-type": "application/problem+json"}, b'{"code": "refused"}')
                    return
                asked = json.loads(body)
                fake.asked.append(asked)
                self._send(*fake.respond(asked))

            def _send(self, status, headers, body):
                fake.authorizations.add(self.headers["authorization"])
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def respond(self, asked):
        tag = answer(asked["sample"])[1]["duet-tag"]
        return keep(asked["sample"]) if asked.get("current", {}).get("tag") == tag else answer(asked["sample"])

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
