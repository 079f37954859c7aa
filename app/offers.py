"""What a version can answer a request with: every representation that the device takes, with its bytes on the wire."""

from app.schemas import Accepts, DtypeName, FormName
from app.served_version import ServedVersion
from duet.protocol import package
from duet.protocol.budget import Offer, RankedOffers
from duet.protocol.errors import NotAcceptable
from duet.protocol.representation import Dtype, Form

PACKAGE, JSON, ONNX = package.MEDIA_TYPE, "application/json", "application/onnx"
ANSWER_TYPES = (PACKAGE, JSON, ONNX)
"""What an answer can be, the default first."""

_JSON_FIELD_BYTES = 320


def offers_of(served: ServedVersion, accepts: Accepts, media_type: str) -> RankedOffers:
    """Rank what the version has and the device takes; worked out once for every kind of request.

    Args:
        served: The version.
        accepts: What the device can use.
        media_type: What the answer is to be, one of ``ANSWER_TYPES``.

    Raises:
        NotAcceptable: If there is nothing.
    """
    # sets, so that the keys are few whatever the requests repeat and reorder
    holds_decoders = accepts.decoders is not None and accepts.decoders == served.decoders_name
    wish = (frozenset(accepts.forms), frozenset(accepts.dtypes), holds_decoders, media_type)
    if wish not in served.offers_by_wish:
        served.offers_by_wish[wish] = RankedOffers(_offers(served, *wish))
    return served.offers_by_wish[wish]


def _offers(
    served: ServedVersion,
    form_names: frozenset[FormName],
    dtype_names: frozenset[DtypeName],
    holds_decoders: bool,
    media_type: str,
) -> tuple[Offer, ...]:
    forms = {Form[name.upper()] for name in form_names} | ({Form.EMBEDDING} if holds_decoders else set())
    dtypes = {Dtype[name.upper()] for name in dtype_names}
    if media_type == ONNX:  # a finished model of full precision, whatever it is composed from
        forms, dtypes = {Form.COMPOSED, Form.FACTORS, Form.FULL}, {Dtype.FLOAT32}
    offers = tuple(
        Offer(offer.representation, _wire_bytes(served, offer, media_type), offer.quality, offer.higher_is_better)
        for offer in served.offers
        if offer.representation.form in forms
        and (offer.representation.dtype in dtypes or offer.representation.form is Form.SHARED)
    )
    if not offers:
        wanted = [f"{form.name.lower()}/{dtype.name.lower()}" for form in sorted(forms) for dtype in sorted(dtypes)]
        raise NotAcceptable(accepts=wanted, offered=[str(offer.representation) for offer in served.offers])
    return offers


def _wire_bytes(served: ServedVersion, offer: Offer, media_type: str) -> int:
    if media_type == ONNX:
        return served.published.manifest.files["device.onnx"].bytes
    if media_type == JSON:
        return 4 * -(-offer.package_bytes // 3) + _JSON_FIELD_BYTES
    return offer.package_bytes
