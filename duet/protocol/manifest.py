"""What one published model version is: signature, layers, files and measured quality, in one canonical JSON file.

The SHA-256 of the file names the version everywhere else: its first 16 bytes stand in every package.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar

from duet.protocol.canonical_json import Json, decode_json, encode_json
from duet.protocol.decoders import DECODERS_FILE
from duet.protocol.embedding_upload import ENCODER_FILE, EmbeddingUpload
from duet.protocol.errors import CorruptVersion, UnsupportedManifest
from duet.protocol.layers import DIGEST_BYTES, LayerTable
from duet.protocol.representation import Form, Representation
from duet.protocol.signature import Signature, signature_from_json

FORMAT, FORMATS = 2, (1, 2)
"""What is written, and what is read: 1 has no ``embedding_upload``."""
FILE_NAME = "manifest.json"
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FILE_NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
RESERVED_NAMES = frozenset({"active", FILE_NAME})

_SHA256 = re.compile(r"[0-9a-f]{64}")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Quality:
    """How good a representation is, measured when the version was published, with its confidence interval."""

    metric: str
    split: str
    value: float
    interval: tuple[float, float]
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        low, high = self.interval
        if not (all(map(math.isfinite, (self.value, low, high))) and low <= high):
            raise ValueError(f"Expected a finite value and interval (low, high), got {self}.")

    def to_json(self) -> dict[str, Json]:
        """Describe the quality as in architecture.md."""
        return {
            "metric": self.metric,
            "split": self.split,
            "value": self.value,
            "interval": list(self.interval),
            "higher_is_better": self.higher_is_better,
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what ``to_json`` wrote; raises ``ValueError`` for anything else."""
        fields = _fields(value, "quality", {"metric", "split", "value", "interval", "higher_is_better"})
        interval = [_number(bound, "interval") for bound in _typed(fields["interval"], list, "interval")]
        if len(interval) != 2:
            raise ValueError(f"it has an interval of {len(interval)} numbers instead of 2")
        return cls(
            metric=_typed(fields["metric"], str, "metric"),
            split=_typed(fields["split"], str, "split"),
            value=_number(fields["value"], "value"),
            interval=(interval[0], interval[1]),
            higher_is_better=_typed(fields["higher_is_better"], bool, "higher_is_better"),
        )


@dataclass(frozen=True)
class RepresentationRecord:
    """One representation that the version can answer with: its exact size and its quality."""

    representation: Representation
    package_bytes: int
    """Header included."""
    quality: Quality

    def to_json(self) -> dict[str, Json]:
        """Describe the record, the representation by name."""
        return {
            "representation": str(self.representation),
            "package_bytes": self.package_bytes,
            "quality": self.quality.to_json(),
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what ``to_json`` wrote; raises ``ValueError`` for anything else."""
        fields = _fields(value, "representation", {"representation", "package_bytes", "quality"})
        return cls(
            Representation.parse(_typed(fields["representation"], str, "representation")),
            _count(fields["package_bytes"], "package_bytes"),
            Quality.from_json(fields["quality"]),
        )


@dataclass(frozen=True)
class FileRecord:
    """Hash and size of one file of the version."""

    sha256: str
    """Lower-case hexadecimal."""
    bytes: int

    def to_json(self) -> dict[str, Json]:
        """Describe the file as ``{"sha256", "bytes"}``."""
        return {"sha256": self.sha256, "bytes": self.bytes}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what ``to_json`` wrote; raises ``ValueError`` for anything else."""
        fields = _fields(value, "file", {"sha256", "bytes"})
        sha256 = _typed(fields["sha256"], str, "sha256")
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"it has a hash {sha256[:80]!r} that is no lower-case SHA-256")
        return cls(sha256, _count(fields["bytes"], "bytes"))


@dataclass(frozen=True)
class Manifest:
    """Everything that is promised about one version, except the numbers in its files.

    Raises:
        ValueError: If the fields contradict each other.
    """

    model: str
    version: str
    created: str
    """When it was published, ISO 8601 with offset."""
    task: str
    """``ranking``, or another kind of question the device model answers."""
    signature: Mapping[str, Json]
    layers: LayerTable
    embedding_dim: int
    rank: int
    """Largest rank R of the generated factors."""
    heads: tuple[str, ...]
    """``factors``, and ``full`` if the version can generate whole residuals."""
    representations: tuple[RepresentationRecord, ...]
    files: Mapping[str, FileRecord]
    training: Mapping[str, Json]
    """Where it comes from: dataset, seed, commit, configuration."""
    embedding_upload: EmbeddingUpload | None = None
    """What a device may send in the place of a sample, if it may."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", replace(self.layers, embedding_dim=self.embedding_dim))
        object.__setattr__(self, "heads", tuple(self.heads))
        object.__setattr__(self, "representations", tuple(self.representations))
        if not MODEL_NAME.fullmatch(self.model) or not VERSION_NAME.fullmatch(self.version):
            raise ValueError(f"it names model {self.model[:80]!r} and version {self.version[:80]!r}")
        if datetime.fromisoformat(self.created).tzinfo is None:
            raise ValueError(f"it was created at {self.created!r}, which has no time zone")
        if self.embedding_dim < 1 or not 1 <= self.rank <= 255:
            raise ValueError(f"it has embedding_dim {self.embedding_dim} and rank {self.rank}, not 1.. and 1..255")
        signature_from_json(dict(self.signature))
        names = [record.representation for record in self.representations]
        if len(set(names)) != len(names):
            raise ValueError("it lists a representation twice")
        for record in self.representations:
            expected = self.layers.package_bytes(record.representation)
            if record.representation.rank > self.rank or record.package_bytes != expected:
                raise ValueError(
                    f"it lists {record.representation} with {record.package_bytes} bytes, where rank is at most "
                    f"{self.rank} and the layers make {expected}"
                )
        if DECODERS_FILE not in self.files and any(name.form is Form.EMBEDDING for name in names):
            raise ValueError(f"it sends embeddings and has no {DECODERS_FILE} for devices to read them with")
        upload, encoder = self.embedding_upload, self.files.get(ENCODER_FILE)
        if upload is not None and (
            encoder is None or upload != EmbeddingUpload(self.embedding_dim, encoder.sha256) or self.format == 1
        ):
            raise ValueError(f"its embedding_upload {upload} is not of its embedding_dim and its {ENCODER_FILE}")
        for name in self.files:
            if not FILE_NAMES.fullmatch(name) or name in RESERVED_NAMES:
                raise ValueError(f"it lists a file {name[:80]!r}, which is no plain file name")

    def record(self, representation: Representation) -> RepresentationRecord | None:
        """Find size and quality of a representation, or None if the version does not have it."""
        return next((record for record in self.representations if record.representation == representation), None)

    def read_signature(self) -> Signature:
        """Make the signature usable."""
        return signature_from_json(dict(self.signature))

    def to_bytes(self) -> bytes:
        """Write the file: canonical JSON, one spelling for one manifest.

        Raises:
            ValueError: If ``training`` holds a number that is not finite.
        """
        fields: dict[str, Json] = {
            "format": self.format,
            "model": self.model,
            "version": self.version,
            "created": self.created,
            "task": self.task,
            "signature": dict(self.signature),
            "layers": self.layers.to_json(),
            "embedding_dim": self.embedding_dim,
            "rank": self.rank,
            "heads": list(self.heads),
            "representations": [record.to_json() for record in self.representations],
            "files": {name: record.to_json() for name, record in self.files.items()},
            "training": dict(self.training),
        }
        if self.format > 1:
            fields["embedding_upload"] = None if self.embedding_upload is None else self.embedding_upload.to_json()
        return encode_json(fields)

    @classmethod
    def from_bytes(cls, data: bytes, source: Path | str) -> Self:
        """Read and check a manifest.

        Args:
            data: The file, or what the cloud answered.
            source: Where it comes from, for the error.

        Raises:
            UnsupportedManifest: If it is of another format.
            CorruptVersion: If it is no manifest, or contradicts itself.
        """
        try:
            value = decode_json(data)
            received = value.get("format") if isinstance(value, dict) else None
            if type(received) is int and received not in FORMATS:
                raise UnsupportedManifest(path=source, received=received, known=FORMATS)
            return cls._from_json(value)
        except ValueError as error:
            raise CorruptVersion(
                path=source, reason=f"its manifest cannot be used: {str(error).rstrip('.')}"
            ) from error

    @classmethod
    def _from_json(cls, value: object) -> Self:
        number = value.get("format") if isinstance(value, dict) else None
        fields = _fields(
            value, "manifest", set(cls.__dataclass_fields__) - ({"embedding_upload"} if number == 1 else set())
        )
        if type(number) is not int:
            raise ValueError(f"it has format {number!r:.80}")
        upload = fields.get("embedding_upload")
        files = _typed(fields["files"], dict, "files")
        return cls(
            model=_typed(fields["model"], str, "model"),
            version=_typed(fields["version"], str, "version"),
            created=_typed(fields["created"], str, "created"),
            task=_typed(fields["task"], str, "task"),
            signature=_typed(fields["signature"], dict, "signature"),
            layers=LayerTable.from_json(fields["layers"]),
            embedding_dim=_count(fields["embedding_dim"], "embedding_dim"),
            rank=_count(fields["rank"], "rank"),
            heads=tuple(_typed(head, str, "head") for head in _typed(fields["heads"], list, "heads")),
            representations=tuple(
                RepresentationRecord.from_json(entry)
                for entry in _typed(fields["representations"], list, "representations")
            ),
            files={name: FileRecord.from_json(record) for name, record in files.items()},
            training=_typed(fields["training"], dict, "training"),
            embedding_upload=None if upload is None else EmbeddingUpload.from_json(upload),
            format=number,
        )


def digest_of(manifest_bytes: bytes) -> bytes:
    """Name a version by its manifest: first 16 bytes of the SHA-256, the ``version`` of every package."""
    return hashlib.sha256(manifest_bytes).digest()[:DIGEST_BYTES]


def _fields(value: object, what: str, names: set[str]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"it has a {type(value).__name__} where a {what} belongs")
    if value.keys() != names:
        raise ValueError(
            f"its {what} lacks {sorted(names - value.keys())} and has unknown {sorted(value.keys() - names)}"[:300]
        )
    return value


def _typed(value: object, kind: type[_Value], what: str) -> _Value:
    if not isinstance(value, kind):
        raise ValueError(f"its {what} is a {type(value).__name__} instead of a {kind.__name__}")
    return value


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"its {what} is a {type(value).__name__} instead of a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"its {what} is larger than a float64") from error


def _count(value: object, what: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"its {what} is {value!r:.80} instead of a count")
    return value
