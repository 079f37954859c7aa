"""A version of a model: being written, and published. Nobody changes one that is published; who does is found out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from duet.protocol.canonical_json import Json, decode_json
from duet.protocol.embedding_upload import ENCODER_FILE, EmbeddingUpload
from duet.protocol.errors import CorruptVersion, VersionExists
from duet.protocol.layers import LayerTable
from duet.protocol.manifest import (
    FILE_NAME,
    FILE_NAMES,
    RESERVED_NAMES,
    FileRecord,
    Manifest,
    RepresentationRecord,
    digest_of,
)
from duet.protocol.signature import Signature, Vocabulary
from duet.registry.files import flush, sha256

VOCABULARY_NAME = "vocabulary.json"
CARD_NAME = "model_card.md"


@dataclass(frozen=True)
class PublishedVersion:
    """One verified version. Its files were as the manifest says when it was opened."""

    model: str
    version: str
    folder: Path
    manifest: Manifest
    manifest_bytes: bytes

    @property
    def digest(self) -> bytes:
        """First 16 bytes of the SHA-256 of the manifest; stands in every package of this version."""
        return digest_of(self.manifest_bytes)

    def path(self, name: str) -> Path:
        """Locate one of the files that the manifest lists.

        Raises:
            CorruptVersion: If it lists no such file.
        """
        if name not in self.manifest.files:
            raise CorruptVersion(path=self.folder, reason=f"its manifest lists no file {name!r:.80}")
        return self.folder / name

    def signature(self) -> Signature:
        """Read what a sample of this model is."""
        return self.manifest.read_signature()

    def vocabulary(self) -> Vocabulary:
        """Read the ids that this version knows.

        Raises:
            CorruptVersion: If the file is no vocabulary.
        """
        path = self.path(VOCABULARY_NAME)
        try:
            return Vocabulary.from_json(decode_json(path.read_bytes()))
        except ValueError as error:
            raise CorruptVersion(path=path, reason=f"it is no vocabulary: {error}") from error

    def model_card(self) -> str | None:
        """Read what the publisher tells people of the version, Markdown; None if it tells nothing.

        Raises:
            CorruptVersion: If the file is no text.
        """
        if CARD_NAME not in self.manifest.files:
            return None
        path = self.path(CARD_NAME)
        try:
            return path.read_text(encoding="utf-8")
        except ValueError as error:
            raise CorruptVersion(path=path, reason=f"it is no UTF-8 text: {error}") from error


class PendingVersion:
    """A version being written. ``folder`` takes the files; nobody else sees them before ``commit``.

    A plain folder of plain files: no links, no folders inside, no ``manifest.json``.
    """

    def __init__(self, model: str, version: str, *, folder: Path, target: Path) -> None:
        self.model, self.version, self.folder = model, version, folder
        self._target = target

    def commit(
        self,
        *,
        task: str,
        signature: Signature,
        layers: LayerTable,
        embedding_dim: int,
        rank: int,
        heads: Sequence[str],
        representations: Sequence[RepresentationRecord],
        training: Mapping[str, Json],
        created: str | None = None,
    ) -> PublishedVersion:
        """Hash every file in the folder, write the manifest and make the version visible, all at once.

        Args:
            task: ``ranking``, or another kind of question the device model answers.
            signature: What a sample is.
            layers: The dynamic layers, in package order.
            embedding_dim: ``D``.
            rank: Largest rank ``R`` of the generated factors.
            heads: ``factors``, and ``full`` where there is one.
            representations: What the version can answer with, measured.
            training: Where it comes from.
            created: ISO 8601 with offset; now by default.

        Raises:
            VersionExists: If another one of this name was published meanwhile.
            ValueError: If the fields contradict each other, or the folder holds more than plain files.
        """
        files = records_of(self.folder)
        encoder = files.get(ENCODER_FILE)
        manifest = Manifest(
            model=self.model,
            version=self.version,
            created=created or datetime.now(UTC).isoformat(timespec="microseconds"),
            task=task,
            signature=signature.to_json(),
            layers=layers,
            embedding_dim=embedding_dim,
            rank=rank,
            heads=tuple(heads),
            representations=tuple(representations),
            files=files,
            training=training,
            embedding_upload=None if encoder is None else EmbeddingUpload(embedding_dim, encoder.sha256),
        )
        data = manifest.to_bytes()
        (self.folder / FILE_NAME).write_bytes(data)
        for path in self.folder.iterdir():
            flush(path)
        flush(self.folder)
        self.folder.chmod(0o755)  # private while it was written
        try:
            self.folder.rename(self._target)
        except OSError as error:
            if self._target.exists():
                raise VersionExists(path=self._target) from error
            raise
        flush(self._target.parent)
        return PublishedVersion(self.model, self.version, self._target, manifest, data)


def records_of(folder: Path) -> dict[str, FileRecord]:
    """Hash every file of a folder.

    Raises:
        ValueError: If it holds more than plain files of usable names.
    """
    records = {}
    for path in sorted(folder.iterdir()):
        is_plain = path.is_file() and not path.is_symlink() and FILE_NAMES.fullmatch(path.name)
        if not is_plain or path.name in RESERVED_NAMES:
            raise ValueError(f"Expected plain files to publish, got {path.name!r}.")
        records[path.name] = FileRecord(sha256(path), path.stat().st_size)
    return records


def verify(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Hold the files of a version to its manifest.

    Raises:
        CorruptVersion: If one is missing, added or changed.
    """
    found = {path.name for path in folder.iterdir()} - {FILE_NAME}
    if missing := sorted(files.keys() - found):
        raise CorruptVersion(path=folder, reason=f"it lacks {', '.join(missing)}")
    if extra := sorted(found - files.keys()):
        raise CorruptVersion(path=folder, reason=f"it holds {', '.join(extra)}, which the manifest does not list")
    for name, record in files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise CorruptVersion(path=path, reason="it is no plain file")
        if path.stat().st_size != record.bytes:
            raise CorruptVersion(path=path, reason=f"it has {path.stat().st_size} bytes instead of {record.bytes}")
        if sha256(path) != record.sha256:
            raise CorruptVersion(path=path, reason="its SHA-256 is not the one in the manifest")
