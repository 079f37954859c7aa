"""Device models on disk, so that a device downloads each version once and starts without a network.

    <cache>/<model>/current                  the digest of the version in use, in hexadecimal
    <cache>/<model>/<digest>/manifest.json   hashes to <digest>
    <cache>/<model>/<digest>/device.onnx     hashes to what the manifest says
    <cache>/<model>/<digest>/encoder.onnx    hashes to what the manifest says; of devices that send embeddings
    <cache>/<model>/<digest>/decoders.onnx   likewise; of devices that generate for themselves

Every file is written beside its place and renamed, and verified whenever it is read: a damaged entry counts as absent.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from duet.device.runtime import DeviceModel
from duet.protocol.errors import CorruptVersion, InvalidName, NoDeviceModel, UnsupportedManifest
from duet.protocol.manifest import FILE_NAME, MODEL_NAME, Manifest, digest_of
from duet.protocol.signature import Signature

DEVICE_FILE = "device.onnx"
_CURRENT = "current"


@dataclass(frozen=True)
class InstalledModel:
    """A verified device model with the manifest of its version."""

    manifest: Manifest
    digest: bytes
    """The version as packages name it, 16 bytes."""
    model: DeviceModel
    signature: Signature
    """What the cloud is sent: the manifest's. The device model has its own, which may look at less of a sample."""


class ModelCache:
    """The device models of one model name below one folder. Processes may share the folder.

    Raises:
        InvalidName: If ``model`` is no model name.
    """

    def __init__(self, root: Path, model: str) -> None:
        if not MODEL_NAME.fullmatch(model):
            raise InvalidName(name=model)
        self._folder = root / model
        self._model = model

    def current(self) -> InstalledModel | None:
        """Read the version that was in use last, or None if there is none or it is damaged."""
        try:
            digest = bytes.fromhex((self._folder / _CURRENT).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return self.read(digest)

    def read(self, digest: bytes) -> InstalledModel | None:
        """Read one version, or None if it is absent or damaged."""
        folder = self._folder / digest.hex()
        try:
            manifest_bytes, onnx = (folder / FILE_NAME).read_bytes(), (folder / DEVICE_FILE).read_bytes()
            return install(self._model, manifest_bytes, onnx) if digest_of(manifest_bytes) == digest else None
        except (OSError, NoDeviceModel):
            return None

    def write(self, manifest_bytes: bytes, onnx: bytes) -> None:
        """Keep a version that ``install`` accepted.

        Raises:
            OSError: If the disk refuses.
        """
        folder = self._folder / digest_of(manifest_bytes).hex()
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / DEVICE_FILE, onnx)
        _replace(folder / FILE_NAME, manifest_bytes)

    def read_file(self, digest: bytes, name: str) -> bytes | None:
        """Read a further file of one version, not verified yet, or None if it is absent."""
        try:
            return (self._folder / digest.hex() / name).read_bytes()
        except OSError:
            return None

    def write_file(self, digest: bytes, name: str, content: bytes) -> None:
        """Keep a further, verified file of one version.

        Raises:
            OSError: If the disk refuses.
        """
        folder = self._folder / digest.hex()
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / name, content)

    def set_current(self, digest: bytes) -> None:
        """Remember which version is in use.

        Raises:
            OSError: If the disk refuses.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        _replace(self._folder / _CURRENT, digest.hex().encode())


def read_manifest(model: str, manifest_bytes: bytes) -> Manifest:
    """Read the manifest of a version of ``model`` that has a device model.

    Raises:
        NoDeviceModel: If it is no manifest, of another model, or lists no device model.
    """
    try:
        manifest = Manifest.from_bytes(manifest_bytes, source=f"the manifest of {model}")
    except (CorruptVersion, UnsupportedManifest) as error:
        raise NoDeviceModel(model=model, reason=str(error)) from error
    if manifest.model != model or DEVICE_FILE not in manifest.files:
        reason = f"the manifest is of {manifest.model!r} with files {sorted(manifest.files)}"
        raise NoDeviceModel(model=model, reason=reason)
    return manifest


def install(model: str, manifest_bytes: bytes, onnx: bytes) -> InstalledModel:
    """Verify a device model against its manifest, then open it.

    Raises:
        NoDeviceModel: If size, hash or layers are not those of the manifest, or the model cannot be opened.
    """
    manifest = read_manifest(model, manifest_bytes)
    record = manifest.files[DEVICE_FILE]
    if len(onnx) != record.bytes or hashlib.sha256(onnx).hexdigest() != record.sha256:
        reason = f"the {len(onnx)} bytes of {DEVICE_FILE} are not the {record.bytes} bytes that the manifest hashes"
        raise NoDeviceModel(model=model, reason=reason)
    opened = DeviceModel.load(onnx, name=model)
    if opened.table.digest != manifest.layers.digest:
        raise NoDeviceModel(model=model, reason=f"{DEVICE_FILE} has other dynamic layers than the manifest")
    signature = manifest.read_signature()
    if opened.signature.input_names != signature.input_names:
        reason = (
            f"{DEVICE_FILE} looks at {opened.signature.input_names}, and the manifest sends {signature.input_names}"
        )
        raise NoDeviceModel(model=model, reason=reason)
    return InstalledModel(manifest, digest_of(manifest_bytes), opened, signature)


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
