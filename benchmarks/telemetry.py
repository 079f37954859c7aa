"""What telling costs a request: our own sums, beside prometheus_client's and beside a record of Ray's for each value.

Prints microseconds of the fastest of several rounds, so that what else the machine does counts as little as it can.
"""

import time
from collections.abc import Callable, Sequence

from app.telemetry import NO_ORIGIN, Telemetry
from app.tracing import Finished, spans_of
from deployments.metrics import MS_BOUNDS
from deployments.telemetry import RequestRecord, StageTimes

ROUNDS, TURNS = 7, 5_000
HISTOGRAMS, COUNTERS = 9, 3
"""What a generated answer adds to."""

_TIMES = StageTimes(1.0, 2.0, 3.0, 0.5)


def main(arguments: Sequence[str]) -> None:
    """Measure and print; starts a Ray of its own."""
    del arguments
    for name, call in (("ours", _ours()), ("prometheus_client", _prometheus_client()), ("a trace", _trace())):
        print(f"{name:<20} {microseconds(call):8.2f} us a request")
    print(f"{'Ray, record by record':<20} {_ray_us():8.2f} us a request")


def microseconds(call: Callable[[], object]) -> float:
    """Time a call."""
    fastest_s = float("inf")
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        for _ in range(TURNS):
            call()
        fastest_s = min(fastest_s, time.perf_counter() - started_s)
    return fastest_s / TURNS * 1e6


def _fill(record: RequestRecord) -> None:
    record.model, record.version, record.plan = "demo", "v1", "factors-r4-int8"
    record.predicted_ms, record.network_ms, record.plan_ms = 4.0, 30.0, 0.3
    record.computed(_TIMES, batch_size=3)


def _ours() -> Callable[[], None]:
    telemetry = Telemetry()

    def call() -> None:
        with telemetry.request(50.0, NO_ORIGIN) as record:
            _fill(record)

    return call


def _prometheus_client() -> Callable[[], None]:
    from prometheus_client import CollectorRegistry, Counter, Histogram

    registry = CollectorRegistry()
    histograms = [
        Histogram(f"h{number}", "time", ["model"], buckets=MS_BOUNDS, registry=registry).labels("demo")
        for number in range(HISTOGRAMS)
    ]
    counters = [
        Counter(f"c{number}", "count", ["model"], registry=registry).labels("demo") for number in range(COUNTERS)
    ]

    def call() -> None:
        for histogram in histograms:
            histogram.observe(12.3)
        for counter in counters:
            counter.inc()

    return call


def _trace() -> Callable[[], object]:
    from opentelemetry.sdk.resources import Resource

    record = RequestRecord(50.0, NO_ORIGIN, 0.0, server_ms=7.0)
    _fill(record)
    finished, resource = Finished(record, time.time_ns()), Resource.create({})
    return lambda: spans_of(finished, resource)


def _ray_us() -> float:
    import ray
    from ray.util.metrics import Histogram

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        histogram = Histogram("time", boundaries=list(MS_BOUNDS), tag_keys=("model",))
        return (HISTOGRAMS + COUNTERS) * microseconds(lambda: histogram.observe(12.3, tags={"model": "demo"}))
    finally:
        ray.shutdown()
