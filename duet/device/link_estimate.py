"""What the network between a device and its cloud is like, learnt from the exchanges that were made anyway.

    network_ms = rtt_ms + 8 up_bytes / up_kbps + 8 down_bytes / down_kbps

A regression on the three unknowns, pulled towards the proportions of the link that was assumed at first: exchanges of
one size say nothing of which of the three made them slow, but of the time of the next one of that size they do.
"""

import numpy as np
import numpy.typing as npt

from duet.device.cloud import Answer
from duet.protocol.budget import FASTEST_KBPS, SLOWEST_KBPS, Link

_FADING = 0.7
_PRIOR_WEIGHT = 0.05
_SMALLEST, _LARGEST = 1e-4, 1e4
_SURPRISE = 4.0
_SURPRISE_MS = 20.0
_LONGEST_RTT_MS = 60_000.0


def learn_from(estimate: "LinkEstimate", answer: Answer, elapsed_ms: float) -> None:
    """Learn from an answer that took so long to come; one that was asked for twice, or tells no time, says nothing."""
    try:
        server_ms = float(answer.headers["Duet-Server-Ms"])
    except (KeyError, ValueError):
        return
    if answer.attempts == 1:
        estimate.observe(up_bytes=answer.bytes_up, down_bytes=answer.bytes_down, network_ms=elapsed_ms - server_ms)


class LinkEstimate:
    """The running estimate of one link. Keeps two small sums, no history."""

    def __init__(self, assumed: Link) -> None:
        """Believe in a link until exchanges say otherwise.

        Args:
            assumed: Such as one of ``PROFILES``.
        """
        self._assumed = assumed
        # unknowns are multiples of what is assumed: of the round trip, and of the time that a byte takes either way
        self._squares = np.zeros((3, 3))
        self._products = np.zeros(3)
        self._weight = self._ratios = 0.0

    @property
    def link(self) -> Link:
        """The link as far as it is known."""
        rtt, up, down = self._multiples()
        return Link(
            down_kbps=float(np.clip(self._assumed.down_kbps / down, SLOWEST_KBPS, FASTEST_KBPS)),
            up_kbps=float(np.clip(self._assumed.up_kbps / up, SLOWEST_KBPS, FASTEST_KBPS)),
            rtt_ms=float(min(self._assumed.rtt_ms * rtt, _LONGEST_RTT_MS)),
        )

    def observe(self, *, up_bytes: int, down_bytes: int, network_ms: float) -> None:
        """Learn from an exchange; the last few count most.

        Args:
            up_bytes: Sent, headers included.
            down_bytes: Received, headers included.
            network_ms: From sending to the last byte received, less what the server took.
        """
        if not (network_ms >= 0 and network_ms < np.inf):
            return  # clocks were changed meanwhile
        times_ms = self._times_ms(up_bytes, down_bytes)
        expected_ms = float(times_ms @ self._multiples())
        # one stalled exchange is no slow link; a link that has become slow is believed after a few of them
        network_ms = min(network_ms, _SURPRISE * expected_ms + _SURPRISE_MS)
        # relative to the exchange, so that short and long ones count alike
        whole_ms = float(times_ms.sum())
        row, ratio = times_ms / whole_ms, network_ms / whole_ms
        self._squares = _FADING * self._squares + np.outer(row, row)
        self._products = _FADING * self._products + row * ratio
        self._weight, self._ratios = _FADING * self._weight + 1, _FADING * self._ratios + ratio

    def _times_ms(self, up_bytes: int, down_bytes: int) -> npt.NDArray[np.float64]:
        """Split the time of an exchange over the assumed link: round trip, up, down."""
        up_ms, down_ms = self._assumed.upload_ms(up_bytes), self._assumed.download_ms(down_bytes)
        return np.array([max(self._assumed.rtt_ms, 1e-3), up_ms, down_ms])

    def _multiples(self) -> npt.NDArray[np.float64]:
        # as a whole the link may be any number of times slower or faster than assumed
        overall = self._ratios / self._weight if self._weight else 1.0
        pull = _PRIOR_WEIGHT * np.eye(3)
        solved = np.linalg.solve(self._squares + pull, self._products + pull @ np.full(3, overall))
        return np.clip(solved, _SMALLEST, _LARGEST)
