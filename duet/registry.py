"""The model repository: write a version, verify, list, pin, roll back. Files, hashes and manifests, nothing unpickled.

    <root>/<model>/<version>/manifest.json, and the files that it lists
    <root>/<model>/active                     the pin: {"version", "previous"}

A version is immutable: it is written to a temporary folder beside its place, hashed, flushed to disk and renamed. So a
version that can be seen is whole, unless someone changed it later; ``open`` finds that out. A publisher that is killed
leaves a hidden folder ``.<version>.tmp-*``, which nobody reads and anyone may delete.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from duet.protocol.canonical_json import Json, decode_json, encode_json
from duet.protocol.errors import (
    CorruptVersion,
    InvalidName,
    InvalidRequest,
    UnknownModel,
    UnknownVersion,
    UnsupportedManifest,
    VersionExists,
)
from duet.protocol.layers import LayerTable
from duet.protocol.manifest import (
    FILE_NAME,
    FILE_NAMES,
    MODEL_NAME,
    RESERVED_NAMES,
    VERSION_NAME,
    FileRecord,
    Manifest,
    RepresentationRecord,
    digest_of,
)
from duet.protocol.signature import Signature, Vocabulary

PIN_NAME = "active"
VOCABULARY_NAME = "vocabulary.json"
MAX_JSON_BYTES = 256 * 2**20


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
            files=_records(self.folder),
            training=training,
        )
        data = manifest.to_bytes()
        (self.folder / FILE_NAME).write_bytes(data)
        for path in self.folder.iterdir():
            _flush(path)
        _flush(self.folder)
        self.folder.chmod(0o755)  # private while it was written
        try:
            self.folder.rename(self._target)
        except OSError as error:
            if self._target.exists():
                raise VersionExists(path=self._target) from error
            raise
        _flush(self._target.parent)
        return PublishedVersion(self.model, self.version, self._target, manifest, data)


class Registry:
    """A folder of published versions; safe to read from any number of processes while one publishes or pins.

    It keeps nothing in memory: every call looks at the files.

    Args:
        root: The folder that holds one folder a model; it need not exist before something is published.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def models(self) -> list[str]:
        """List the models that have at least one version, by name."""
        return sorted(name for name in _folder_names(self.root) if self._version_names(name))

    def versions(self, model: str) -> list[str]:
        """List the versions of a model, oldest first by the time in their manifests; unreadable ones come first.

        Raises:
            UnknownModel: If there is no such model.
        """
        names = self._version_names(model)
        if not names:
            raise UnknownModel(model=model, known=self.models())
        return sorted(names, key=lambda name: (self._created(model, name), name))

    def active(self, model: str) -> str:
        """Name the version that is served: the pinned one, or the newest if none is pinned.

        Raises:
            UnknownModel: If there is no such model.
            UnknownVersion: If the pinned version is gone.
            CorruptVersion: If the pin cannot be read.
        """
        versions = self.versions(model)
        pinned, _ = self._pin(model)
        if pinned is not None and pinned not in versions:
            raise UnknownVersion(model=model, version=pinned, known=versions)
        return versions[-1] if pinned is None else pinned

    def activate(self, model: str, version: str) -> None:
        """Pin a version, after verifying it; the one that was active before is remembered for ``rollback``.

        Pinning the version that is active keeps it so while newer ones are published. A damaged pin is replaced.

        Raises:
            DuetError: What ``open`` raises.
        """
        self.open(model, version)
        try:
            pinned, previous = self._pin(model)
        except CorruptVersion:
            pinned, previous = version, None  # what was active before is lost
        current = pinned or self.versions(model)[-1]
        self._write_pin(model, version, previous if current == version else current)

    def rollback(self, model: str) -> str:
        """Pin the version that was active before, or the next older one, and name it.

        Raises:
            InvalidRequest: If there is nothing to go back to.
            DuetError: What ``active`` and ``open`` raise.
        """
        versions, current = self.versions(model), self.active(model)
        _, previous = self._pin(model)
        if previous is None:
            if current == versions[0]:
                wanted = f"Expected a version of model {model} from before {current}"
                raise InvalidRequest(detail=f"{wanted}, but there is no earlier one. Activate another by its name.")
            previous = versions[versions.index(current) - 1]
        self.open(model, previous)
        self._write_pin(model, previous, current)
        return previous

    @contextmanager
    def publish(self, model: str, version: str | None = None) -> Iterator[PendingVersion]:
        """Write a new version: fill ``folder`` of what is yielded, then ``commit`` it.

        Whatever way the block is left without a commit, nothing stays behind.

        Args:
            model: Lower-case letters, digits, ``.``, ``_`` and ``-``.
            version: As a model's name, upper case allowed; by default the UTC time, ``20260131T120000Z``.

        Raises:
            InvalidName: If a name is not usable.
            VersionExists: If the version is there already.
        """
        if not MODEL_NAME.fullmatch(model):
            raise InvalidName(name=model)
        if version is not None and (not VERSION_NAME.fullmatch(version) or version.lower() in RESERVED_NAMES):
            raise InvalidName(name=version)
        home = self.root / model
        version = version or _unused_version(home)
        target = home / version
        if target.exists():
            raise VersionExists(path=target)
        is_new_home = not home.exists()
        folder = home / f".{version}.tmp-{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700, parents=True)
        try:
            yield PendingVersion(model, version, folder=folder, target=target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if is_new_home:
                with suppress(OSError):  # not empty: something was published
                    home.rmdir()

    def open(self, model: str, version: str | None = None) -> PublishedVersion:
        """Verify a version and give access to it: every file is there, as hashed, and nothing else.

        Args:
            model: Its name.
            version: Its name; the active one by default.

        Raises:
            UnknownModel, UnknownVersion: If there is none of this name.
            CorruptVersion: If a file is missing, added or changed, or the manifest cannot be used.
            UnsupportedManifest: If the manifest is of another format.
        """
        version = version if version is not None else self.active(model)
        known = self._version_names(model)
        if not known:
            raise UnknownModel(model=model, known=self.models())
        if version not in known:
            raise UnknownVersion(model=model, version=version, known=self.versions(model))
        folder = self.root / model / version
        data = _read(folder / FILE_NAME)
        manifest = Manifest.from_bytes(data, folder / FILE_NAME)
        if (manifest.model, manifest.version) != (model, version):
            raise CorruptVersion(
                path=folder, reason=f"its manifest is that of version {manifest.version} of model {manifest.model}"
            )
        _verify(folder, manifest.files)
        return PublishedVersion(model, version, folder, manifest, data)

    def _version_names(self, model: str) -> list[str]:
        if not MODEL_NAME.fullmatch(model):
            return []
        names = _folder_names(self.root / model)
        return [name for name in names if VERSION_NAME.fullmatch(name) and name.lower() not in RESERVED_NAMES]

    def _created(self, model: str, version: str) -> float:
        path = self.root / model / version / FILE_NAME
        try:
            return datetime.fromisoformat(Manifest.from_bytes(_read(path), path).created).timestamp()
        except (CorruptVersion, UnsupportedManifest):
            # listed, so that it can be seen and removed; oldest, so that it is never served by default
            return float("-inf")

    def _pin(self, model: str) -> tuple[str | None, str | None]:
        path = self.root / model / PIN_NAME
        if not path.exists():
            return None, None
        remedy = f"Pin one anew: `duet models activate {model} VERSION --models {self.root}`."
        try:
            value = decode_json(path.read_bytes())
        except (ValueError, OSError) as error:
            raise CorruptVersion(path=path, reason=f"the pin cannot be read: {error}", remedy=remedy) from error
        if isinstance(value, dict) and value.keys() == {"version", "previous"}:
            version, previous = value["version"], value["previous"]
            if isinstance(version, str) and (previous is None or isinstance(previous, str)):
                return version, previous
        raise CorruptVersion(path=path, reason="the pin is not of the form {version, previous}", remedy=remedy)

    def _write_pin(self, model: str, version: str, previous: str | None) -> None:
        path = self.root / model / PIN_NAME
        draft = path.with_name(f".{PIN_NAME}.tmp-{secrets.token_hex(8)}")
        try:
            draft.write_bytes(encode_json({"version": version, "previous": previous}))
            _flush(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        _flush(path.parent)


def _unused_version(home: Path) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name, count = stamp, 1
    while (home / name).exists():
        count += 1
        name = f"{stamp}-{count}"
    return name


def _folder_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _records(folder: Path) -> dict[str, FileRecord]:
    records = {}
    for path in sorted(folder.iterdir()):
        is_plain = path.is_file() and not path.is_symlink() and FILE_NAMES.fullmatch(path.name)
        if not is_plain or path.name in RESERVED_NAMES:
            raise ValueError(f"Expected plain files to publish, got {path.name!r}.")
        records[path.name] = FileRecord(_sha256(path), path.stat().st_size)
    return records


def _verify(folder: Path, files: Mapping[str, FileRecord]) -> None:
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
        if _sha256(path) != record.sha256:
            raise CorruptVersion(path=path, reason="its SHA-256 is not the one in the manifest")


def _read(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise CorruptVersion(path=path, reason="it is missing or no plain file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CorruptVersion(path=path, reason=f"it is larger than {MAX_JSON_BYTES} bytes")
    return path.read_bytes()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
