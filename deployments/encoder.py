"""The first stage: samples to embeddings, on ONNX Runtime.

Shapes: B batch of devices, T sample length, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from deployments.device_embeddings import embeddings_of
from deployments.prepared_versions import PreparedVersions
from deployments.version_checks import check_golden, golden_tensors, open_session
from duet.protocol.embedding_upload import ENCODER_FILE, ENCODER_OUTPUT
from duet.protocol.signature import Signature, Vocabulary, signature_from_json
from duet.registry import PublishedVersion


@dataclass(frozen=True)
class _PreparedEncoder:
    session: onnxruntime.InferenceSession
    signature: Signature
    vocabulary: Vocabulary


class Encoder:
    """Runs the sample encoders of the versions it has prepared.

    Keeps nothing between batches, so replicas are interchangeable. What a sample is, only the signature knows.
    """

    def __init__(self, models: Path | str, *, intra_op_threads: int = 1) -> None:
        """Start with no version.

        Args:
            models: Root of the model repository.
            intra_op_threads: Threads of one session; a replica has as many cores to itself.
        """
        self._intra_op_threads = intra_op_threads
        self._versions = PreparedVersions(models, self._load)

    def prepare(self, model: str, version: str) -> None:
        """Load a version, verify it and compare its golden embeddings.

        Raises:
            UnknownModel: If the model is not published.
            UnknownVersion: If it has no such version.
            RegistryError: If the version is not what was published, or computes something else here.
        """
        self._versions.get(model, version)

    def encode(self, samples: Sequence[object], *, model: str, version: str) -> npt.NDArray[np.float32]:
        """Embed valid samples; what a device has embedded already stays as it is.

        Returns:
            Embeddings, ``[B, D]`` float32.

        Raises:
            InvalidSample: If a sample is not what the signature asks for; the gateway lets none of these through.
        """
        prepared = self._versions.get(model, version)
        return embeddings_of(
            samples,
            lambda raw: _embed(prepared.session, prepared.signature.arrays(raw, prepared.vocabulary)),
        )

    def _load(self, published: PublishedVersion) -> _PreparedEncoder:
        session = open_session(published.path(ENCODER_FILE), intra_op_threads=self._intra_op_threads)
        signature = signature_from_json(dict(published.manifest.signature))
        golden = golden_tensors(published)
        inputs = {name: golden[f"input.{name}"] for name in signature.input_names}
        check_golden(published, ENCODER_OUTPUT, _embed(session, inputs), golden[f"output.{ENCODER_OUTPUT}"])
        # the first run of a size allocates for it, and a device mostly comes alone
        _embed(session, {name: array[:1] for name, array in inputs.items()})
        return _PreparedEncoder(session, signature, published.vocabulary())


def _embed(
    session: onnxruntime.InferenceSession, arrays: dict[str, npt.NDArray[np.generic]]
) -> npt.NDArray[np.float32]:
    embeddings: npt.NDArray[np.float32] = session.run([ENCODER_OUTPUT], arrays)[0]
    return embeddings
