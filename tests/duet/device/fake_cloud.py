"""A cloud inside the test process: the HTTP interface on real protocol code, and every way in which it can fail."""

import base64
import hashlib
import json
from collections import deque
from collections.abc import Callable

import httpx
import numpy as np

import tests.duet.device.tiny_network as tiny
from duet.protocol.embedding_upload import EmbeddingUpload
from duet.protocol.manifest import FileRecord, Manifest, Quality, RepresentationRecord, digest_of
from duet.protocol.package import MEDIA_TYPE, LayerValues, encode_body, seal, tag_of
from duet.protocol.representation import SHARED, Form, Representation

URL = "http://cloud.test"
RANK = 3
FACTORS = Representation.parse("factors-r2-int8")
REPRESENTATIONS = tuple(
    Representation.parse(name)
    for name in (
        "shared",
        *(f"factors-r{rank}-{dtype}" for rank in (1, 2, 3) for dtype in ("float32", "float16", "int8")),
        *(f"{form}-{dtype}" for form in ("full", "composed-r3") for dtype in ("float32", "float16", "int8")),
    )
)


class Clock:
    """Seconds that only tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def values_for(sample, representation, seed=0):
    """What the generator of these tests makes of a sample: numbers drawn from its hash."""
    digest = hashlib.sha256(json.dumps(list(sample)[-tiny.SIGNATURE.length :]).encode()).digest()
    random = np.random.default_rng([seed, *digest])

    def draw(*shape):
        return (random.normal(size=shape) / 2).astype(np.float32)

    values = {}
    for layer in tiny.TABLE:
        if representation.form is Form.FACTORS:
            factors = {"left": draw(RANK, layer.outputs), "right": draw(RANK, layer.inputs)}
        else:
            factors = {"weight": draw(layer.outputs, layer.inputs)}
        values[layer.name] = LayerValues(**factors, shift=draw(layer.outputs))
    return values


def manifest_of(onnx, *, model="films", version="v1", files=None, takes_embeddings=True):
    """The manifest of a version with this device model, and the encoder of these tests."""
    quality = Quality("ndcg@10", "validation", 0.2, (0.1, 0.3))
    if files is None:
        files = {name: record_of(data) for name, data in (("device.onnx", onnx), ("encoder.onnx", encoder_of(version)))}
    upload = EmbeddingUpload(4, files["encoder.onnx"].sha256) if takes_embeddings and "encoder.onnx" in files else None
    return Manifest(
        model=model,
        version=version,
        created="2026-01-31T12:00:00+00:00",
        task="ranking",
        signature=tiny.SIGNATURE.to_json(),
        layers=tiny.TABLE,
        embedding_dim=4,
        rank=RANK,
        heads=("factors", "full"),
        representations=tuple(
            RepresentationRecord(each, tiny.TABLE.package_bytes(each), quality) for each in REPRESENTATIONS
        ),
        files=files,
        training={},
        embedding_upload=upload,
    ).to_bytes()


def record_of(data):
    """Hash and size of a file."""
    return FileRecord(hashlib.sha256(data).hexdigest(), len(data))


def encoder_of(version):
    """The encoder of a version: that of the first, or that of all others."""
    return tiny.ENCODER_FIXTURES["v1" if version == "v1" else "v2"].read_bytes()


class FakeCloud:
    """Serves versions of one model; ``fail`` queues what happens to the next requests instead."""

    def __init__(self, model: str = "films") -> None:
        self.onnx = tiny.FIXTURE.read_bytes()
        self.manifests = {"v1": manifest_of(self.onnx, model=model)}
        self.active = "v1"
        self.model = model
        self.representation = FACTORS
        self.requests: list[httpx.Request] = []
        self._faults: deque[Callable[[httpx.Request], httpx.Response]] = deque()
        self.transport = httpx.MockTransport(self._handle)

    def publish(self, version: str, **options: object) -> None:
        """Serve another version from now on."""
        self.manifests[version] = manifest_of(self.onnx, model=self.model, version=version, **options)
        self.active = version

    @property
    def digest(self) -> bytes:
        """The version that is served, as packages name it."""
        return digest_of(self.manifests[self.active])

    @property
    def asked(self) -> list[dict]:
        """The requests for parameters so far, as JSON."""
        return [json.loads(request.content) for request in self.requests if request.method == "POST"]

    @property
    def downloads(self) -> list[str]:
        """The paths of the downloads so far, below the model."""
        paths = [request.url.path.removeprefix(f"/v1/models/{self.model}") for request in self.requests]
        return [path or "/" for path in paths if path != "/parameters"]

    def fail(self, *faults: "Callable[[httpx.Request], httpx.Response] | Exception") -> None:
        """Let the next requests meet these faults, one each."""
        self._faults.extend(_raiser(fault) if isinstance(fault, Exception) else fault for fault in faults)

    def answer(self, request: httpx.Request) -> httpx.Response:
        """What the cloud answers when nothing fails."""
        path = request.url.path.removeprefix(f"/v1/models/{self.model}")
        version = request.url.params.get("version", self.active)
        if path == "":
            return httpx.Response(200, content=self.manifests[version])
        if path == "/device-model":
            return httpx.Response(200, content=self.onnx)
        if path == "/encoder":
            return httpx.Response(200, content=encoder_of(version))
        asked = json.loads(request.content)
        embedding, brought = asked.get("embedding"), asked.get("sample")
        if embedding is None:
            canonical = tiny.SIGNATURE.canonical(brought)
        elif embedding["version"] == self.digest.hex():
            # what the fake generates depends on every byte, so it is to be the right one to the last
            canonical = base64.b64decode(embedding["values"])
            brought = [int.from_bytes(canonical)]
        else:
            facts = {"served": self.digest.hex(), "version": self.active, "received": embedding["version"]}
            return problem(409, "wrong_encoder", model=self.model, **facts)(request)
        tag = tag_of(self.digest, self.representation, canonical, is_embedding=embedding is not None)
        headers = {
            "Duet-Plan": str(self.representation),
            "Duet-Predicted-Ms": "83.5",
            "Duet-Network-Ms": "72.25",
            "Duet-Server-Ms": "2.5",
            "Duet-Version": self.digest.hex(),
            "Duet-Model-Version": self.active,
            "Duet-Tag": tag.hex(),
            "Server-Timing": "queue;dur=0.5, encode;dur=1.0, generate;dur=0.75, compose;dur=0.25",
        }
        if (asked.get("current") or {}).get("tag") == tag.hex():
            return httpx.Response(204, headers=headers | {"Duet-Plan": "keep"})
        return httpx.Response(200, content=self.package(brought, tag), headers=headers | {"Content-Type": MEDIA_TYPE})

    def package(self, sample, tag=bytes(8), *, version=None):
        """Seal the package for a sample."""
        body = b""
        if self.representation != SHARED:
            body = encode_body(values_for(sample, self.representation), self.representation, tiny.TABLE)
        version = self.digest if version is None else version
        return seal(body, representation=self.representation, version=version, table=tiny.TABLE, tag=tag)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._faults.popleft()(request) if self._faults else self.answer(request)


def problem(
    status: int, code: str = "", headers: dict | None = None, **facts
) -> Callable[[httpx.Request], httpx.Response]:
    """A refusal as a problem document."""
    document = {"status": status, "code": code, "detail": "what was expected, what arrived", **facts}
    headers = {"Content-Type": "application/problem+json", **(headers or {})}
    return lambda request: httpx.Response(status, content=json.dumps(document), headers=headers)


def corrupted(cloud, change):
    """The right answer with another body: what ``change`` makes of a bytearray."""

    def answer(request):
        response = cloud.answer(request)
        return httpx.Response(
            response.status_code, headers=response.headers, content=change(bytearray(response.content))
        )

    return answer


def _raiser(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    return fail
