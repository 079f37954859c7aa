"""Manifests: one spelling, a digest that names the version, and strict reading."""

import dataclasses
import hashlib
import json

import pytest

from duet.protocol.canonical_json import encode_json
from duet.protocol.embedding_upload import EmbeddingUpload
from duet.protocol.errors import CorruptVersion, UnsupportedManifest
from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.manifest import FileRecord, Manifest, Quality, RepresentationRecord, digest_of
from duet.protocol.representation import SHARED, Representation
from duet.protocol.signature import SequenceSignature

TABLE = LayerTable((DynamicLayer("hidden", 8, 4), DynamicLayer("output", 3, 8)))
FACTORS = Representation.parse("factors-r2-int8")
QUALITY = Quality("ndcg@10", "validation", 0.31, (0.29, 0.33))
MANIFEST = Manifest(
    model="films",
    version="20260131T120000Z",
    created="2026-01-31T12:00:00.000000+00:00",
    task="ranking",
    signature=SequenceSignature(length=30).to_json(),
    layers=TABLE,
    embedding_dim=32,
    rank=4,
    heads=("factors",),
    representations=(
        RepresentationRecord(SHARED, 64, QUALITY),
        RepresentationRecord(FACTORS, TABLE.package_bytes(FACTORS), QUALITY),
    ),
    files={"encoder.onnx": FileRecord("ab" * 32, 1234)},
    training={"dataset": "synthetic", "seed": 7, "config": {"rate": 0.5}},
    embedding_upload=EmbeddingUpload(32, "ab" * 32),
)


def edited(path: str, value: object) -> bytes:
    """The manifest with one member replaced, or removed if the value is ``...``; ``a.0.b`` walks into it."""
    document = json.loads(MANIFEST.to_bytes())
    *way, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    place = document
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document).encode()


def test_a_manifest_is_read_back():
    assert Manifest.from_bytes(MANIFEST.to_bytes(), "here") == MANIFEST


def test_a_manifest_of_the_first_format_is_read_back_to_its_own_bytes():
    document = json.loads(MANIFEST.to_bytes())
    del document["embedding_upload"]
    data = encode_json(document | {"format": 1})

    manifest = Manifest.from_bytes(data, "here")

    assert manifest.embedding_upload is None
    assert manifest.to_bytes() == data


def test_a_version_may_declare_that_it_takes_no_embeddings():
    manifest = Manifest.from_bytes(edited("embedding_upload", None), "here")

    assert manifest.embedding_upload is None


def test_who_sends_embeddings_publishes_the_decoders_to_read_them_with():
    quality = MANIFEST.representations[1].quality
    table = dataclasses.replace(MANIFEST.layers, embedding_dim=MANIFEST.embedding_dim)
    embedding = Representation.parse("embedding-float16")
    record = RepresentationRecord(embedding, table.package_bytes(embedding), quality)
    decoders = {"decoders.onnx": FileRecord("0" * 64, 1)}

    told = dataclasses.replace(
        MANIFEST, representations=(*MANIFEST.representations, record), files={**MANIFEST.files, **decoders}
    )

    assert Manifest.from_bytes(told.to_bytes(), "here") == told
    with pytest.raises(ValueError, match=r"no decoders\.onnx"):
        dataclasses.replace(told, files=MANIFEST.files)


def test_equal_manifests_have_equal_bytes():
    turned = dataclasses.replace(
        MANIFEST,
        training=dict(reversed(MANIFEST.training.items())),
        signature=dict(reversed(MANIFEST.signature.items())),
    )

    assert turned.to_bytes() == MANIFEST.to_bytes()


def test_the_digest_is_the_first_half_of_the_sha_256():
    data = MANIFEST.to_bytes()

    assert digest_of(data) == hashlib.sha256(data).digest()[:16]


def test_a_record_is_found_by_its_representation():
    assert MANIFEST.record(FACTORS) == MANIFEST.representations[1]
    assert MANIFEST.record(Representation.parse("full-int8")) is None
    assert MANIFEST.read_signature() == SequenceSignature(length=30)


@pytest.mark.parametrize("received", [0, 3, 10**100])
def test_another_format_is_unsupported_whatever_else_it_holds(received):
    for data in (edited("format", received), json.dumps({"format": received, "new": 1}).encode()):
        with pytest.raises(UnsupportedManifest) as caught:
            Manifest.from_bytes(data, "here")
        assert (caught.value.path, caught.value.known) == ("here", (1, 2))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", ...),
        ("format", "1"),
        ("format", True),
        ("format", 1.0),
        ("model", ...),
        ("model", 3),
        ("model", "../films"),
        ("model", "Films"),
        ("version", ".v1"),
        ("version", "a/b"),
        ("created", "yesterday"),
        ("created", "2026-01-31T12:00:00"),
        ("task", None),
        ("signature", {}),
        ("signature/kind", "images"),
        ("signature/length", 0),
        ("layers", []),
        ("layers/0/outputs", 0),
        ("layers/1/name", "hidden"),
        ("embedding_dim", 0),
        ("embedding_dim", 32.0),
        ("embedding_dim", True),
        ("rank", 0),
        ("rank", 256),
        ("rank", 1),
        ("heads", "factors"),
        ("heads", [1]),
        ("representations", {}),
        ("representations/1", None),
        ("representations/1/representation", "factors-r2-int4"),
        ("representations/1/representation", "shared"),
        ("representations/1/package_bytes", 1),
        ("representations/1/quality/value", "high"),
        ("representations/1/quality/value", True),
        ("representations/1/quality/value", 10**400),
        ("representations/1/quality/interval", [0.1]),
        ("representations/1/quality/interval", [0.4, 0.3]),
        ("representations/1/quality/higher_is_better", 1),
        ("representations/1/quality/split", ...),
        ("files", []),
        ("files/encoder.onnx/sha256", "AB" * 32),
        ("files/encoder.onnx/bytes", -1),
        ("files/encoder.onnx/mode", 0o777),
        ("files/..", {"sha256": "ab" * 32, "bytes": 1}),
        ("files/manifest.json", {"sha256": "ab" * 32, "bytes": 1}),
        ("training", []),
        ("embedding_upload", ...),
        ("embedding_upload", "float16"),
        ("embedding_upload/dtype", "float32"),
        ("embedding_upload/shape", [31]),
        ("embedding_upload/shape", [32, 1]),
        ("embedding_upload/shape", [True]),
        ("embedding_upload/shape", 32),
        ("embedding_upload/encoder", "cd" * 32),
        ("embedding_upload/encoder", "AB" * 32),
        ("embedding_upload/encoder", None),
        ("embedding_upload/version", "v1"),
        ("format", 1),
        ("files", {}),
        ("unknown", 1),
    ],
    ids=lambda value: f"{value!r:.30}",
)
def test_a_manifest_that_says_something_else_is_corrupt(path, value):
    with pytest.raises(CorruptVersion) as caught:
        Manifest.from_bytes(edited(path, value), "here")

    assert caught.value.path == "here"
    assert len(caught.value.reason) < 600


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        MANIFEST.to_bytes()[:-1],
        b"\xff" + MANIFEST.to_bytes(),
        MANIFEST.to_bytes().replace(b"0.31", b"NaN"),
        MANIFEST.to_bytes().replace(b"0.31", b"Infinity"),
        MANIFEST.to_bytes().replace(b"0.31", b"1e999"),
        MANIFEST.to_bytes().replace(b'"seed":7', b'"seed":7,"seed":8'),
        MANIFEST.to_bytes().replace(b"0.31", b"[" * 100_000 + b"]" * 100_000),
    ],
    ids=["empty", "null", "list", "truncated", "not-utf-8", "nan", "infinity", "overflow", "repeated-key", "deep"],
)
def test_what_is_no_manifest_is_corrupt(data):
    with pytest.raises(CorruptVersion):
        Manifest.from_bytes(data, "here")


def test_a_manifest_with_numbers_that_json_lacks_is_not_written():
    manifest = dataclasses.replace(MANIFEST, training={"loss": float("nan")})

    with pytest.raises(ValueError, match="JSON"):
        manifest.to_bytes()


def test_quality_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        Quality("ndcg@10", "validation", float("nan"), (0.0, 1.0))
