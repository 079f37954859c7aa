"""The third stage: bodies to what the device asked for, a parameter package or a whole device model as ONNX."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
import onnx

from deployments.orders import AnswerKind
from deployments.prepared_versions import PreparedVersions
from deployments.version_checks import check_device_model, everything_emitted, generator_tensors, shared_parameters
from duet.protocol.device_model import Parameters
from duet.protocol.errors import CorruptPackage, GenerationError, NonFiniteParameters
from duet.protocol.package import TAG_BYTES, ParameterPackage, seal
from duet.protocol.representation import Representation
from duet.registry import PublishedVersion

_SHARED_PROPERTY = "duet.shared"


@dataclass(frozen=True)
class _PreparedComposer:
    published: PublishedVersion
    digest: bytes
    """What stands in the package header; worked out once, because it hashes the manifest."""
    shared: Parameters
    """Weight and bias of every dynamic layer of the shared classifier."""

    @cached_property
    def device_model(self) -> onnx.ModelProto:
        """The device model, for devices that cannot compose for themselves."""
        return onnx.load(self.published.path("device.onnx"))


class Composer:
    """Finishes the answers of the versions it has prepared, and gives the verdict on those that must not be sent.

    Keeps nothing between batches, so replicas are interchangeable. Call it from one thread.
    """

    def __init__(self, models: Path | str) -> None:
        """Start with no version.

        Args:
            models: Root of the model repository.
        """
        self._versions = PreparedVersions(models, _load)

    def prepare(self, model: str, version: str) -> None:
        """Load a version, verify it and compare the golden scores of its device model.

        Raises:
            UnknownModel: If the model is not published.
            UnknownVersion: If it has no such version.
            RegistryError: If the version is not what was published.
        """
        self._versions.get(model, version)

    def compose(
        self,
        bodies: Sequence[bytes | None],
        representations: Sequence[Representation],
        *,
        tags: Sequence[bytes],
        answers: Sequence[AnswerKind],
        model: str,
        version: str,
    ) -> list[bytes | GenerationError]:
        """Make the answer to each device of a batch.

        Args:
            bodies: In package layout; None where the generator met a number that is not finite.
            representations: What each body holds.
            tags: What each package is named.
            answers: What each device asked for.
            model: Whose parameters.
            version: Of which version.

        Returns:
            The bytes, in order, or the reason why there are none.
        """
        prepared = self._versions.get(model, version)
        rows = zip(bodies, representations, tags, answers, strict=True)
        return [_answer(prepared, body, representation, tag, kind) for body, representation, tag, kind in rows]


def _load(published: PublishedVersion) -> _PreparedComposer:
    shared = shared_parameters(generator_tensors(published), published.manifest.layers)
    check_device_model(published, shared)
    prepared = _PreparedComposer(published, published.digest, shared)
    # an answer of each kind: the first device model that is sent would have to wait until it is parsed
    representation = everything_emitted(published.manifest)
    body = bytes(published.manifest.layers.body_bytes(representation))
    for kind in get_args(AnswerKind):
        _answer(prepared, body, representation, bytes(TAG_BYTES), kind)
    return prepared


def _answer(
    prepared: _PreparedComposer, body: bytes | None, representation: Representation, tag: bytes, kind: AnswerKind
) -> bytes | GenerationError:
    published = prepared.published
    if body is None:
        return NonFiniteParameters(model=published.model, version=published.version)
    table = published.manifest.layers
    package = seal(body, representation=representation, version=prepared.digest, table=table, tag=tag)
    if kind == "package":
        return package
    try:
        parameters = ParameterPackage.decode(package, table).compose(prepared.shared)
    except CorruptPackage:
        # finite factors whose sum with the shared weights is not
        return NonFiniteParameters(model=published.model, version=published.version)
    return _device_model_with(prepared, parameters)


def _device_model_with(prepared: _PreparedComposer, parameters: Parameters) -> bytes:
    """Write the device model with these parameters in the place of the shared ones."""
    # a copy: what is replaced in a message stays in memory until the message goes, so that a kept one grows for ever
    device_model = onnx.ModelProto()
    device_model.CopyFrom(prepared.device_model)
    initializers = {tensor.name: tensor for tensor in device_model.graph.initializer}
    for name, (weight, bias) in parameters.items():
        for role, array in (("weight", weight), ("bias", bias)):
            tensor = initializers[f"dyn.{name}.{role}"]
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    flat = b"".join(array.astype("<f4").tobytes() for pair in parameters.values() for array in pair)
    for entry in device_model.metadata_props:
        # the file repeats its defaults for devices, which check one against the other
        if entry.key == _SHARED_PROPERTY:
            entry.value = base64.b64encode(flat).decode()
    serialized: bytes = device_model.SerializeToString()
    return serialized
