"""The encoder of a device that sends embeddings: downloaded once a version, held to the manifest, run on every sample.

Shapes: D embedding.
"""

from functools import partial
from typing import Self

import onnxruntime

from duet.device.cloud import Cloud
from duet.device.model_cache import InstalledModel, ModelCache
from duet.device.runtime import open_session
from duet.device.version_file import OnDisk, VersionFile, is_hashed
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
        if not is_hashed(onnx, installed, ENCODER_FILE):
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


def encoders_of(cloud: Cloud, cache: ModelCache, on_disk: OnDisk) -> VersionFile[DeviceEncoder]:
    """Find encoders where this device keeps them, and in its cloud."""
    download = partial(download_encoder, cloud)
    return VersionFile(ENCODER_FILE, DeviceEncoder.load, download, cache, damaged=NoEncoder, on_disk=on_disk)


def download_encoder(cloud: Cloud, installed: InstalledModel) -> bytes:
    """Get the encoder of a version, not verified yet.

    Raises:
        NoEncoder: If the version takes no embeddings.
        DuetError: If the cloud refuses, fails or cannot be reached.
    """
    _declared(installed)
    manifest = installed.manifest
    return cloud.file("encoder", manifest.version, manifest.files[ENCODER_FILE].bytes)


def _declared(installed: InstalledModel) -> EmbeddingUpload:
    manifest = installed.manifest
    if manifest.embedding_upload is None:
        raise NoEncoder(model=manifest.model, reason=f"its version {manifest.version} takes no embeddings")
    return manifest.embedding_upload
