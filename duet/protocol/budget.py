"""Link, Offer, Plan: which representation reaches a device within how much time.

    predicted_ms = rtt_ms + 8 (request + headers) / up_kbps + 8 (package + headers) / down_kbps + server_ms

kbit/s and bit/ms are the same number. The budget runs from sending to the last byte received, so a plan fits when
``predicted_ms <= budget_ms``.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from duet.protocol.errors import BudgetTooSmall
from duet.protocol.representation import Form, Representation

REQUEST_HEADER_BYTES = 384
"""Estimate of what precedes a request's body: request line, an HTTP client's headers, a token, one TCP/IP header."""

RESPONSE_HEADER_BYTES = 640
"""Estimate of what precedes a package: status line, the ``Duet-*`` headers, ``Server-Timing``, one TCP/IP header."""

BITS_PER_BYTE = 8

SLOWEST_KBPS, FASTEST_KBPS = 0.1, 1e9
"""Rates that a link may have, kbit/s: with a slower one, times overflow or become numbers that nobody can read."""

_BUDGET_FIELD_BYTES = len('"budget_ms": 10000, ')


@dataclass(frozen=True)
class Link:
    """The network between a device and the cloud.

    Raises:
        ValueError: If a rate is not within ``SLOWEST_KBPS`` and ``FASTEST_KBPS``, or the round-trip time negative or
            not finite.
    """

    down_kbps: float
    up_kbps: float
    rtt_ms: float

    def __post_init__(self) -> None:
        rates_are_usable = all(SLOWEST_KBPS <= rate <= FASTEST_KBPS for rate in (self.down_kbps, self.up_kbps))
        if not rates_are_usable or not 0 <= self.rtt_ms < math.inf:
            raise ValueError(
                f"Expected rates of {SLOWEST_KBPS:g} to {FASTEST_KBPS:g} kbit/s and a round trip of at least 0 ms, "
                f"got {self}. Measure the link again, or name a profile."
            )

    def download_ms(self, size_bytes: float) -> float:
        """Time on the wire towards the device, without latency."""
        return size_bytes * BITS_PER_BYTE / self.down_kbps

    def upload_ms(self, size_bytes: float) -> float:
        """Time on the wire towards the cloud, without latency."""
        return size_bytes * BITS_PER_BYTE / self.up_kbps

    def network_ms(self, up_bytes: float, down_bytes: float) -> float:
        """One round trip and both transfers; the caller says how much is sent, headers included."""
        return self.rtt_ms + self.upload_ms(up_bytes) + self.download_ms(down_bytes)

    def exchange_ms(self, *, request_bytes: float, response_bytes: float) -> float:
        """What a request and its answer take on the network, given their bodies: headers are added here."""
        return self.network_ms(request_bytes + REQUEST_HEADER_BYTES, response_bytes + RESPONSE_HEADER_BYTES)


PROFILES: Mapping[str, Link] = MappingProxyType(
    {
        "slow-3g": Link(400, 400, 400),
        "slow-4g": Link(1600, 750, 150),
        "fast-4g": Link(9000, 1500, 60),
        "lte": Link(12000, 6000, 70),
        "wifi": Link(30000, 15000, 2),
        "5g": Link(200000, 21000, 30),
    }
)
"""Named links; the round-trip time of ``5g`` is an assumption."""


@dataclass(frozen=True)
class Offer:
    """One representation that a version has and a device accepts, with its measured quality."""

    representation: Representation
    package_bytes: int
    """Header included."""
    quality: float
    higher_is_better: bool = True


@dataclass(frozen=True)
class Plan:
    """The representation chosen for one request, and what it was predicted to take."""

    representation: Representation
    package_bytes: int
    quality: float
    network_ms: float
    server_ms: float
    """Predicted: queue and compute."""
    predicted_ms: float
    """From sending to the last byte received."""
    budget_ms: float

    @property
    def fits(self) -> bool:
        """Whether it is predicted to arrive within the budget."""
        return self.predicted_ms <= self.budget_ms

    def with_server_ms(self, server_ms: float) -> "Plan":
        """Expect another time of the server."""
        return Plan(
            representation=self.representation,
            package_bytes=self.package_bytes,
            quality=self.quality,
            network_ms=self.network_ms,
            server_ms=server_ms,
            predicted_ms=self.network_ms + server_ms,
            budget_ms=self.budget_ms,
        )


class RankedOffers:
    """Offers in the order in which they are preferred, worked out once for many choices.

    The highest measured quality goes first, ties go to the fewer bytes. The shared representation is a way out under
    pressure, not a plan: it is chosen only when nothing else is offered.
    """

    def __init__(self, offers: Iterable[Offer]) -> None:
        """Rank them.

        Raises:
            ValueError: If nothing is offered, or the offers disagree on which quality is better.
        """
        self.all = tuple(offers)
        candidates = [offer for offer in self.all if offer.representation.form is not Form.SHARED] or list(self.all)
        if len({offer.higher_is_better for offer in candidates}) != 1:
            raise ValueError("Expected at least one offer, all of one metric.")
        sign = 1 if candidates[0].higher_is_better else -1
        self._ranked = sorted(candidates, key=lambda offer: (-sign * offer.quality, offer.package_bytes))

    def choose(
        self,
        *,
        link: Link,
        budget_ms: float,
        upload_bytes: int,
        server_ms: Callable[[Representation], float] | float,
    ) -> Plan:
        """Choose the first one that reaches the device in time; see ``choose_plan``."""
        empty_ms, byte_ms = link.exchange_ms(request_bytes=upload_bytes, response_bytes=0), link.download_ms(1)
        fastest_ms = math.inf
        for offer in self._ranked:
            server = server_ms(offer.representation) if callable(server_ms) else server_ms
            network = empty_ms + offer.package_bytes * byte_ms
            if network + server <= budget_ms:
                return Plan(
                    representation=offer.representation,
                    package_bytes=offer.package_bytes,
                    quality=offer.quality,
                    network_ms=network,
                    server_ms=server,
                    predicted_ms=network + server,
                    budget_ms=budget_ms,
                )
            fastest_ms = min(fastest_ms, network + server)
        smallest_ms = math.ceil(fastest_ms + link.upload_ms(_BUDGET_FIELD_BYTES))
        raise BudgetTooSmall(budget_ms=budget_ms, smallest_ms=smallest_ms)


def choose_plan(
    offers: Iterable[Offer],
    *,
    link: Link,
    budget_ms: float,
    upload_bytes: int,
    server_ms: Callable[[Representation], float] | float,
) -> Plan:
    """Choose the representation of highest measured quality that reaches the device in time.

    Args:
        offers: What the version has and the device accepts; ranked as in ``RankedOffers``.
        link: The network between them.
        budget_ms: From sending to the last byte received.
        upload_bytes: Body of the request.
        server_ms: Predicted queue and compute time, for each representation or for all.

    Raises:
        BudgetTooSmall: If none arrives in time; names whole milliseconds that are enough for the fastest one, also when
            the request grows by naming them.
        ValueError: If nothing is offered, or the offers disagree on which quality is better.
    """
    return RankedOffers(offers).choose(link=link, budget_ms=budget_ms, upload_bytes=upload_bytes, server_ms=server_ms)
