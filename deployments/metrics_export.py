"""Hands metrics to Ray, whose agent on every node exports them to Prometheus beside those of Ray Serve.

One record costs Ray microseconds, and its agent rebuilds a histogram observation by observation, from the middles of
its buckets. So a request is added up in our process (``metrics.py``), and only the sums come here, once a second: a
histogram as the series ``_bucket``, ``_sum`` and ``_count`` that Prometheus makes of one, exact.
"""

from collections.abc import Iterable

from ray.serve import metrics

from deployments.metrics import Sample


class RayGauges:
    """Publishes from a replica; Ray Serve adds the labels ``application``, ``deployment`` and ``replica``.

    Every series is a gauge, also a count: Ray's counters take differences, and one that is lost on the way to the agent
    stays lost, and the series of a replica that is gone stay for ever. A gauge carries the sum, and goes with its
    replica.
    """

    def __init__(self) -> None:
        self._gauges: dict[str, metrics.Gauge] = {}

    def publish(self, samples: Iterable[Sample]) -> None:
        """Set every value: Ray forgets a gauge that is not set again."""
        for sample in samples:
            gauge = self._gauges.get(sample.name)
            if gauge is None:
                gauge = metrics.Gauge(sample.name, description=sample.meaning, tag_keys=tuple(sample.labels))
                self._gauges[sample.name] = gauge
            gauge.set(sample.value, tags=sample.labels)
