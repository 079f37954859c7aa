"""The job that every contender does for one request: validate and compute; no plan, no budget, no batch."""

from dataclasses import dataclass
from pathlib import Path

from app.schemas import ParametersRequest
from deployments.orders import AnswerKind
from duet.protocol.budget import Offer
from duet.protocol.manifest import Manifest
from duet.protocol.package import tag_of
from duet.protocol.representation import Form, Representation
from duet.protocol.signature import Signature, Vocabulary, signature_from_json
from duet.registry import Registry

ANSWER: AnswerKind = "package"


@dataclass(frozen=True)
class Job:
    """What is known of the served version before a request comes."""

    model: str
    version: str
    digest: bytes
    signature: Signature
    vocabulary: Vocabulary
    representation: Representation
    """The best that the version has: what our server chooses when the budget is ample."""

    @classmethod
    def of(cls, models: Path | str, model: str) -> "Job":
        """Read the active version."""
        registry = Registry(Path(models))
        published = registry.open(model, registry.active(model))
        signature = signature_from_json(dict(published.manifest.signature))
        best = best_representation(published.manifest)
        return cls(model, published.version, published.digest, signature, published.vocabulary(), best)

    def read(self, content: bytes) -> tuple[ParametersRequest, bytes]:
        """Validate a body; return the request and the tag of its answer.

        Raises:
            ValidationError: If a field is wrong.
            InvalidSample: If the sample is.
        """
        request = ParametersRequest.model_validate_json(content)
        return request, self.tag(request)

    def tag(self, request: ParametersRequest) -> bytes:
        """Validate the sample of a request that is read; return the tag of its answer.

        Raises:
            InvalidSample: If it is not what the signature asks for.
        """
        self.signature.validate(request.sample, self.vocabulary)
        return tag_of(self.digest, self.representation, self.signature.canonical(request.sample))


def best_representation(manifest: Manifest) -> Representation:
    """Return the factors or residuals of highest quality; ties go to the fewer bytes."""
    offers = [
        Offer(record.representation, record.package_bytes, record.quality.value, record.quality.higher_is_better)
        for record in manifest.representations
        if record.representation.form in (Form.FACTORS, Form.FULL)
    ]
    sign = 1 if offers[0].higher_is_better else -1
    return max(offers, key=lambda offer: (sign * offer.quality, -offer.package_bytes)).representation
