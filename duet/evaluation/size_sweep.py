"""How large a static device model has to be to rank as well as one whose classifier is generated.

    k = bytes at which the static models reach the quality / bytes of the device model with generated parameters

Between the sizes that were run the quality of a static model is taken to be linear in the logarithm of its bytes; the
first size at which it is reached counts. The interval is over users, who are drawn again together for all models, so
that k varies as the whole comparison does. What training again would change is not in it.

Shapes: U users, V static models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duet.evaluation.comparison import Variant
from duet.evaluation.intervals import COVERAGE, RESAMPLES
from duet.evaluation.record import OWN

FLOAT_BYTES = 4


def device_bytes(variant: Variant) -> int:
    """Return the bytes of what a device holds, as float32."""
    sizes = variant.records[0].sizes
    return FLOAT_BYTES * (sizes.static + sizes.dynamic)


def generator_bytes(variant: Variant) -> int:
    """Return the bytes of what stays in the cloud, as float32."""
    return FLOAT_BYTES * variant.records[0].sizes.generator


def static_sizes(variants: Mapping[str, Variant]) -> list[Variant]:
    """Return the static models of a grid, the smallest first; none if all have one size."""
    found = [variant for variant in variants.values() if variant.records[0].config.model == "static"]
    return sorted(found, key=device_bytes) if len({device_bytes(variant) for variant in found}) > 1 else []


def generated(variants: Mapping[str, Variant]) -> list[Variant]:
    """Return the variants that generate, each with its own parameters, the smallest device model first."""
    found = [variant.under(OWN) for variant in variants.values() if variant.records[0].tested is not None]
    return sorted(found, key=device_bytes)


@dataclass(frozen=True)
class Needed:
    """What a static model needs to be as good as one with generated parameters.

    Attributes:
        variant: The one with generated parameters.
        times: k, or infinite if no static model that was run is as good.
        low: Lower end of its 95 % interval.
        high: Upper end, perhaps infinite.
        smallest: k of the smallest static model that was run: where k is that, it is an upper bound.
        largest: k of the largest one: where k is infinite, it is more than that.
    """

    variant: Variant
    times: float
    low: float
    high: float
    smallest: float
    largest: float

    def __str__(self) -> str:
        if not np.isfinite(self.times):
            reached = "" if not np.isfinite(self.low) else f"; lower end of the interval: {self._told(self.low)}"
            return f"not reached by {self.largest:.1f} times the bytes{reached}"
        return f"{self._told(self.times)} [{self._told(self.low)}, {self._told(self.high)}]"

    def _told(self, times: float) -> str:
        if not np.isfinite(times):
            return f"more than {self.largest:.1f}"
        return f"at most {self.smallest:.1f}" if times <= self.smallest else f"{times:.1f}"


def bytes_needed(quality: float, sizes: Sequence[int], qualities: NDArray[np.float64]) -> float:
    """Return the bytes at which static models reach a quality: at least the smallest that was run, perhaps infinite.

    Args:
        quality: What is to be reached.
        sizes: Bytes of the static models, ascending, ``[V]``.
        qualities: Their qualities, ``[V]``.
    """
    enough = np.flatnonzero(qualities >= quality)
    if not len(enough):
        return float("inf")
    at = int(enough[0])
    if at == 0:
        return float(sizes[0])
    share = (quality - qualities[at - 1]) / (qualities[at] - qualities[at - 1])
    return float(np.exp(np.log(sizes[at - 1]) + share * (np.log(sizes[at]) - np.log(sizes[at - 1]))))


def needed(variants: Mapping[str, Variant], metric: str) -> list[Needed]:
    """Compare every generating variant with the static models of a grid; nothing if those have one size.

    Only static models that were run with all seeds of a variant count for it.
    """
    return [found for variant in generated(variants) if (found := _needed(variant, static_sizes(variants), metric))]


def _needed(variant: Variant, statics: Sequence[Variant], metric: str) -> Needed | None:
    statics = [static.only(variant.seeds) for static in statics if set(static.seeds) >= set(variant.seeds)]
    if len(statics) < 2:
        return None
    own, sizes = device_bytes(variant), [device_bytes(static) for static in statics]
    values = np.stack([variant.by_user(metric), *(static.by_user(metric) for static in statics)])  # [1 + V, U]

    def times(means: NDArray[np.float64]) -> float:
        return bytes_needed(float(means[0]), sizes, means[1:]) / own

    users = values.shape[1]
    rng = np.random.default_rng([0, users])
    drawn = [times(values[:, rng.integers(0, users, users)].mean(axis=1)) for _ in range(RESAMPLES)]
    # no interpolation: between a number and infinity there is none
    low, high = np.quantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], method="nearest")
    return Needed(variant, times(values.mean(axis=1)), float(low), float(high), sizes[0] / own, sizes[-1] / own)
