"""The decoders of a device that generates for itself: an embedding from the cloud to parameters, on ONNX Runtime.

Shapes: D embedding, M and K features of a layer.
"""

from functools import partial
from typing import Self

import numpy as np
import onnxruntime

from duet.device.cloud import Cloud
from duet.device.model_cache import InstalledModel, ModelCache
from duet.device.runtime import open_session
from duet.device.version_file import OnDisk, VersionFile, is_hashed
from duet.protocol.decoders import DECODERS_FILE, DECODERS_INPUT, embedding_of, name_of
from duet.protocol.device_model import Parameters, weight_inputs
from duet.protocol.embedding_errors import NoDecoders
from duet.protocol.errors import NoDeviceModel
from duet.protocol.package import ParameterPackage


class DeviceDecoders:
    """Generates the parameters of a version's dynamic layers."""

    def __init__(self, session: onnxruntime.InferenceSession, installed: InstalledModel) -> None:
        self._session = session
        self.installed = installed

    @classmethod
    def load(cls, onnx: bytes, installed: InstalledModel) -> Self:
        """Verify decoders against the manifest of their version, then open them.

        Raises:
            NoDecoders: If the version has none, the hash is another one, or the graph is of something else.
        """
        manifest = installed.manifest
        if not is_hashed(onnx, installed, DECODERS_FILE):
            reason = f"the {len(onnx)} bytes of {DECODERS_FILE} are not those that the manifest hashes"
            raise NoDecoders(model=manifest.model, reason=reason)
        try:
            session = open_session(onnx, manifest.model)
        except NoDeviceModel as error:
            raise NoDecoders(model=manifest.model, reason=error.reason) from error
        takes = {value.name: value.shape for value in session.get_inputs()}
        gives = {value.name: value.shape for value in session.get_outputs()}
        expected = {
            name: shape
            for layer in manifest.layers
            for name, shape in zip(weight_inputs(layer), ([layer.outputs, layer.inputs], [layer.outputs]), strict=True)
        }
        if takes != {DECODERS_INPUT: [manifest.embedding_dim]} or gives != expected:
            reason = f"its graph makes {gives} of {takes} and not the parameters of the manifest's layers"
            raise NoDecoders(model=manifest.model, reason=reason)
        return cls(session, installed)

    @property
    def name(self) -> str:
        """How the device names them to the cloud; see :func:`duet.protocol.decoders.name_of`."""
        return name_of(self.installed.manifest.files[DECODERS_FILE].sha256)

    def parameters(self, package: ParameterPackage) -> Parameters:
        """Generate weight ``[M, K]`` and bias ``[M]`` of every layer from a package that carries an embedding.

        Raises:
            ValueError: If it carries something else.
        """
        return run_decoders(self._session, package)


def run_decoders(session: onnxruntime.InferenceSession, package: ParameterPackage) -> Parameters:
    """Generate the parameters of every layer from a package that carries an embedding; see ``DeviceDecoders``."""
    names = [name for layer in package.table for name in weight_inputs(layer)]
    arrays = iter(
        [np.asarray(array, np.float32) for array in session.run(names, {DECODERS_INPUT: embedding_of(package)})]
    )
    return {layer.name: (next(arrays), next(arrays)) for layer in package.table}


def decoders_of(cloud: Cloud, cache: ModelCache, on_disk: OnDisk) -> VersionFile[DeviceDecoders]:
    """Find decoders where this device keeps them, and in its cloud."""
    download = partial(download_decoders, cloud)
    return VersionFile(DECODERS_FILE, DeviceDecoders.load, download, cache, damaged=NoDecoders, on_disk=on_disk)


def download_decoders(cloud: Cloud, installed: InstalledModel) -> bytes:
    """Get the decoders of a version, not verified yet.

    Raises:
        NoDecoders: If the version has none.
        DuetError: If the cloud refuses, fails or cannot be reached.
    """
    manifest = installed.manifest
    if DECODERS_FILE not in manifest.files:
        raise NoDecoders(model=manifest.model, reason=f"its version {manifest.version} was published without")
    return cloud.file("decoders", manifest.version, manifest.files[DECODERS_FILE].bytes)
