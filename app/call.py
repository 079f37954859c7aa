"""A request on its way through the gateway: what is known of it, and what follows from that without any work."""

from dataclasses import dataclass, field
from functools import cached_property

from app.brought import Brought
from app.offers import ONNX
from app.schemas import ParametersRequest
from app.served_version import ServedVersion
from deployments.forecast import WorkAround
from deployments.orders import Answered, AnswerKind
from deployments.telemetry import RequestRecord, StageTimes
from duet.protocol import package
from duet.protocol.budget import Offer, Plan, RankedOffers
from duet.protocol.embedding_errors import InvalidEmbedding
from duet.protocol.errors import BudgetTooSmall
from duet.protocol.representation import SHARED, Form, Representation


@dataclass(frozen=True)
class Call:
    """A valid request for one version.

    Attributes:
        started_s: When it had arrived, on the gateway's clock.
        spent_ms: From then until it could be planned.
        inside: Requests that were inside at that moment, this one included, where they are counted.
        around: What is known of the work around batches of this kind.
    """

    request: ParametersRequest
    served: ServedVersion
    brought: Brought
    upload_bytes: int
    media_type: str
    started_s: float
    spent_ms: float
    inside: int
    around: WorkAround
    offers: RankedOffers
    record: RequestRecord
    tags: dict[Representation, bytes] = field(default_factory=dict)
    """Those that have been worked out."""

    @property
    def answer_kind(self) -> AnswerKind:
        """What the stages are to make."""
        return "onnx" if self.media_type == ONNX else "package"

    @cached_property
    def around_ms(self) -> float:
        """What to add to queue and compute; as it was known when the request was planned."""
        return self.around.predict_ms(self.inside)

    @cached_property
    def batch_kind(self) -> tuple[str, str, AnswerKind]:
        """What the requests of one batch have in common."""
        return self.served.published.model, self.served.published.version, self.answer_kind

    @property
    def shared_offers(self) -> RankedOffers | None:
        """The last rung, where the device takes it."""
        shared = [offer for offer in self.offers.all if offer.representation.form is Form.SHARED]
        return RankedOffers(shared) if shared else None

    @property
    def held(self) -> Offer | None:
        """What the device holds among what it could get for this very sample."""
        current = self.request.current
        if current is None or current.version != self.served.digest.hex():
            return None
        tag = bytes.fromhex(current.tag)
        return next((offer for offer in self.offers.all if self.tag(offer) == tag), None)

    def tag(self, offer: Offer | Plan) -> bytes:
        """Name what would be sent."""
        representation = offer.representation
        if representation not in self.tags:
            self.tags[representation] = self.brought.tag(self.served.digest, representation)
        return self.tags[representation]

    def fitting(self, offers: RankedOffers, server_ms: float) -> Plan:
        """Choose the best offer that fits when the server takes ``server_ms``.

        Raises:
            BudgetTooSmall: If nothing does.
        """
        return offers.choose(
            link=self.request.network,
            budget_ms=self.request.budget_ms,
            upload_bytes=self.upload_bytes,
            server_ms=server_ms,
        )

    def fits_the_network(self) -> bool:
        """Whether something better than ``shared`` would arrive in time from a server that takes none."""
        try:
            return self.fitting(self.offers, 0.0).representation != SHARED
        except BudgetTooSmall:
            return False

    def is_fault(self, error: Exception) -> bool:
        """Whether the failure of this request is held against its version, and not against its budget."""
        if isinstance(error, InvalidEmbedding):
            return False  # anybody can make one up
        return not isinstance(error, BudgetTooSmall) or self.fits_the_network()

    def shared(self, plan: Plan) -> Answered:
        """Make the package that tells a device to use its shared parameters: it has no body, so no stage is asked."""
        content = package.seal(
            b"",
            representation=plan.representation,
            version=self.served.digest,
            table=self.served.published.manifest.layers,
            tag=self.tag(plan),
        )
        return Answered(content, StageTimes())


def is_as_good(held: Offer, plan: Plan) -> bool:
    """Whether what the device holds is no worse than what it would get."""
    return held.quality >= plan.quality if held.higher_is_better else held.quality <= plan.quality
