"""What a request brings: a sample, or the embedding that the device has made of one; checked against its version."""

from dataclasses import dataclass

from app.schemas import ParametersRequest
from app.served_version import ServedVersion
from deployments.device_embeddings import DeviceEmbedding
from duet.protocol import package
from duet.protocol.embedding_errors import InvalidEmbedding, WrongEncoder
from duet.protocol.errors import NonFiniteParameters
from duet.protocol.representation import Representation


@dataclass(frozen=True, slots=True)
class Brought:
    """A valid sample, or a valid embedding by the encoder of the version that the device gets."""

    value: object
    """As the stages take it."""
    canonical: bytes
    is_embedding: bool

    @classmethod
    def by(cls, request: ParametersRequest, served: ServedVersion) -> "Brought":
        """Check what a request brings.

        Which version a device gets is the operator's to say, by pin, canary and rollback. So an embedding of another
        version is refused even where that version is still loaded, and the device is told which encoder to use.

        Raises:
            InvalidSample: If the sample is not what the signature asks for.
            InvalidEmbedding: If the version takes no embeddings, or not this one.
            WrongEncoder: If it was made by the encoder of another version than ``served``.
        """
        if not request.has_embedding:
            served.signature.validate(request.sample, served.vocabulary)
            return cls(request.sample, served.signature.canonical(request.sample), is_embedding=False)
        published = served.published
        upload = published.manifest.embedding_upload
        if upload is None:
            raise InvalidEmbedding(
                expected=f"left out, as version {published.version} of model {published.model} declares none",
                received="one",
                remedy="Send the sample.",
            )
        if request.embedding.version != served.digest.hex():
            raise WrongEncoder(
                model=published.model,
                version=published.version,
                served=served.digest.hex(),
                received=request.embedding.version,
            )
        canonical = upload.read(request.embedding.values)
        return cls(DeviceEmbedding(canonical), canonical, is_embedding=True)

    def tag(self, version: bytes, representation: Representation) -> bytes:
        """Name what would be sent."""
        return package.tag_of(version, representation, self.canonical, is_embedding=self.is_embedding)

    def answer_for(self, failure: NonFiniteParameters) -> None:
        """Blame an embedding for parameters that are not finite: what an encoder makes of a sample is our own matter.

        Raises:
            InvalidEmbedding: If it was one.
        """
        if self.is_embedding:
            raise InvalidEmbedding(
                expected="one that leads to finite parameters",
                received="one that leads to NaN, infinity or an overflow",
                remedy="Send what the version's encoder makes of the sample, or the sample.",
            ) from failure
