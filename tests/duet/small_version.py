"""A version of three small files, for tests of the model repository."""

import json

from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.manifest import Quality, RepresentationRecord
from duet.protocol.representation import SHARED
from duet.protocol.signature import SequenceSignature, Vocabulary
from duet.registry import PendingVersion, PublishedVersion, Registry

VOCABULARY = Vocabulary((1, 2, "three"), ("One", "Two", "Three"))
FILES = {
    "vocabulary.json": json.dumps(VOCABULARY.to_json()).encode(),
    "encoder.onnx": b"encoder" * 100,
    "card.md": b"# A card\n",
}


def fill(pending: PendingVersion) -> None:
    for name, data in FILES.items():
        (pending.folder / name).write_bytes(data)


def commit(pending: PendingVersion, **changes) -> PublishedVersion:
    fields = {
        "task": "ranking",
        "signature": SequenceSignature(length=3),
        "layers": LayerTable((DynamicLayer("output", 3, 4),)),
        "embedding_dim": 4,
        "rank": 2,
        "heads": ("factors",),
        "representations": (RepresentationRecord(SHARED, 64, Quality("ndcg@10", "validation", 0.3, (0.2, 0.4))),),
        "training": {"seed": 0},
    }
    return pending.commit(**{**fields, **changes})


def publish(registry: Registry, version: str | None = "v1", model: str = "films", **changes) -> PublishedVersion:
    with registry.publish(model, version) as pending:
        fill(pending)
        return commit(pending, **changes)
