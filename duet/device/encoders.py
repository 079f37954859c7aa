"""The encoder of a device that sends embeddings: downloaded once a version, held to the manifest, run on every sample.

Shapes: D embedding.
"""

import hashlib
from collections.abc import Callable
from typing import Self

import onnxruntime

from duet.device.cloud import Cloud
from duet.device.model_cache import InstalledModel, ModelCache
from duet.device.runtime import open_session
from duet.protocol.embedding_errors import NoEncoder
from duet.protocol.embedding_upload import ENCODER_FILE, ENCODER_OUTPUT, EmbeddingUpload
from duet.protocol.errors import NoDeviceModel


class DeviceEncoder:
    """Makes embeddings of samples, as a version's manifest declares them. Keeps no samples."""

    def __init__(
        self, session: onnxruntime.InferenceSession, upload: EmbeddingUpload, installed: InstalledModel
    ) -> None:
        self._session, self._upload = session, upload
        self.installed = installed

    @classmethod
    def load(cls, onnx: bytes, installed: InstalledModel) -> Self:
        """Verify an encoder against the manifest of its version, then open it.

        Raises:
            NoEncoder: If the version takes no embeddings, the hash is another one, or the graph is of something else.
        """
        upload, name = _declared(installed), installed.manifest.model
        if hashlib.sha256(onnx).hexdigest() != upload.encoder_sha256:
            reason = f"the {len(onnx)} bytes of {ENCODER_FILE} are not those that the manifest hashes"
            raise NoEncoder(model=name, reason=reason)
        try:
            session = open_session(onnx, name)
        except NoDeviceModel as error:
            raise NoEncoder(model=name, reason=error.reason) from error
        takes = {value.name for value in session.get_inputs()}
        gives = {value.name: value.shape[1:] for value in session.get_outputs()}
        if takes != set(installed.signature.input_names) or gives.get(ENCODER_OUTPUT) != [upload.dim]:
            reason = (
                f"its graph makes {gives} of {sorted(takes)} instead of {ENCODER_OUTPUT} [{upload.dim}] of a sample"
            )
            raise NoEncoder(model=name, reason=reason)
        return cls(session, upload, installed)

    def embed(self, sample: object) -> bytes:
        """Make the embedding of a sample, canonically spelt: ``[D]`` float16, little-endian.

        Raises:
            InvalidSample: If the sample is not what the signature asks for, or this version knows nothing in it.
            InvalidEmbedding: If a number of it is not finite in float16.
        """
        arrays = self.installed.signature.arrays([sample], self.installed.model.vocabulary)
        return self._upload.canonical(self._session.run([ENCODER_OUTPUT], arrays)[0][0])


class Encoders:
    """Finds the encoder of a version: in memory, else on disk, else in the cloud. Keeps the last one in memory."""

    def __init__(self, cloud: Cloud, cache: ModelCache, *, on_disk: Callable[[Callable[[], None]], None]) -> None:
        """Hold none yet.

        Args:
            cloud: Where to download one.
            cache: Where to keep them.
            on_disk: Runs what writes, and survives a disk that refuses.
        """
        self._cloud, self._cache, self._on_disk = cloud, cache, on_disk
        self._last: DeviceEncoder | None = None

    def of(self, installed: InstalledModel) -> DeviceEncoder:
        """Find the encoder of a version.

        Raises:
            NoEncoder: If the version takes no embeddings, or what the cloud gave is not its encoder.
            DuetError: If the cloud refuses, fails or cannot be reached.
        """
        if self._last is None or self._last.installed.digest != installed.digest:
            self._last = self._cached(installed) or self._downloaded(installed)
        return self._last

    def _cached(self, installed: InstalledModel) -> DeviceEncoder | None:
        try:
            onnx = self._cache.read_encoder(installed.digest)
            return None if onnx is None else DeviceEncoder.load(onnx, installed)
        except NoEncoder:
            return None  # damaged: it is downloaded again

    def _downloaded(self, installed: InstalledModel) -> DeviceEncoder:
        onnx = download_encoder(self._cloud, installed)
        encoder = DeviceEncoder.load(onnx, installed)
        self._on_disk(lambda: self._cache.write_encoder(installed.digest, onnx))
        return encoder


def download_encoder(cloud: Cloud, installed: InstalledModel) -> bytes:
    """Get the encoder of a version, not verified yet.

    Raises:
        NoEncoder: If the version takes no embeddings.
        DuetError: If the cloud refuses, fails or cannot be reached.
    """
    _declared(installed)
    manifest = installed.manifest
    return cloud.encoder(manifest.version, manifest.files[ENCODER_FILE].bytes)


def _declared(installed: InstalledModel) -> EmbeddingUpload:
    manifest = installed.manifest
    if manifest.embedding_upload is None:
        raise NoEncoder(model=manifest.model, reason=f"its version {manifest.version} takes no embeddings")
    return manifest.embedding_upload
