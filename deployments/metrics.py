"""What is measured of every request, added up in this process: a few microseconds a request, no lock, no library.

Nothing here is tagged by device, nor by anything else that a client chooses: labels are names of published models and
versions, and words of this code.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from deployments.backlog import BUSY, LOAD, QUEUE, WAIT
from deployments.telemetry import RequestRecord

MS_BOUNDS = (
    *(0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0),
    *(60.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 1000.0, 2000.0, 5000.0),
)
"""Upper bounds of the buckets of times, milliseconds: steps of at most 5 up to a budget of 50."""

SLACK_BOUNDS_MS = (-1000.0, -200.0, -100.0, -50.0, -20.0, -10.0, -5.0, 0.0, *MS_BOUNDS[4:])
"""Upper bounds of the buckets of what is left of a budget; below zero it was missed."""

BATCH_BOUNDS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 256.0)
"""Upper bounds of the buckets of batch sizes, requests."""

HONEST_MS, HONEST_SHARE = 5.0, 0.25
"""A prediction is honest within this many milliseconds, or within this share of what was measured."""

UNKNOWN = "unknown"
"""The label of a request that was refused before its model was found."""

Labels: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """What one metric is.

    Attributes:
        name: As in ``docs/telemetry.md``, without Ray's prefix.
        kind: In Prometheus' sense.
        unit: Of its values.
        labels: Names of its labels.
        meaning: One sentence.
        bounds: Upper bounds of the buckets of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: Labels
    meaning: str
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One value as Prometheus knows it: a histogram is many of them."""

    name: str
    labels: dict[str, str]
    value: float
    meaning: str


class Total:
    """A counter or a gauge: one number for each combination of labels."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._values: dict[Labels, float] = {}

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """Count."""
        self._values[labels] = self._values.get(labels, 0.0) + amount

    def set(self, *labels: str, value: float) -> None:
        """Replace the value."""
        self._values[labels] = value

    def reset(self) -> None:
        """Set every value to zero: one that is only left out would be seen for some seconds more."""
        self._values = dict.fromkeys(self._values, 0.0)

    def samples(self) -> Iterator[Sample]:
        """Read every value; another thread may."""
        # one step of the interpreter, so that no key is added meanwhile
        for labels, value in list(self._values.items()):
            named = dict(zip(self.metric.labels, labels, strict=True))
            yield Sample(self.metric.name, named, value, self.metric.meaning)


class _Buckets:
    __slots__ = ("counts", "total")

    def __init__(self, count: int) -> None:
        self.counts, self.total = [0] * count, 0.0


class Histogram:
    """Counts in buckets for each combination of labels; exact, and cheap to add to."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._buckets: dict[Labels, _Buckets] = {}

    def observe(self, *labels: str, value: float) -> None:
        """Count a value."""
        buckets = self._buckets.get(labels)
        if buckets is None:
            buckets = self._buckets[labels] = _Buckets(len(self.metric.bounds) + 1)
        buckets.counts[bisect_left(self.metric.bounds, value)] += 1
        buckets.total += value

    def samples(self) -> Iterator[Sample]:
        """Read it as Prometheus does: cumulative ``_bucket`` by ``le``, ``_sum`` and ``_count``; another thread may."""
        name, meaning = self.metric.name, self.metric.meaning
        for labels, buckets in list(self._buckets.items()):
            named = dict(zip(self.metric.labels, labels, strict=True))
            count = 0
            for bound, inside in zip((*self.metric.bounds, math.inf), list(buckets.counts), strict=True):
                count += inside
                le = "+Inf" if math.isinf(bound) else f"{bound:g}"
                yield Sample(f"{name}_bucket", named | {"le": le}, count, meaning)
            yield Sample(f"{name}_sum", named, buckets.total, meaning)
            yield Sample(f"{name}_count", named, count, meaning)


class Metrics:
    """Every metric of one gateway. Belongs to one event loop; ``samples`` may be read by another thread."""

    def __init__(self) -> None:
        """Start from zero."""
        self.requests = _counter(
            "requests_total",
            "model version rung",
            "All requests, by what they got: `plan` (generated parameters), `keep`, `shared`, `refused`.",
        )
        self.refusals = _counter(
            "refusals_total",
            "model reason",
            "Refused requests, by the code of the error, or `cancelled` if the device hung up.",
        )
        self.plans = _counter("plans_total", "model version plan", "Answers, by the representation that was chosen.")
        self.misses = _counter(
            "deadline_misses_total",
            "model version answer",
            "Budgets that ran out: `none` got `deadline_exceeded`, `late` an answer all the same.",
        )
        self.response_bytes = _counter("response_bytes_total", "model version", "Bodies of answers.", unit="bytes")
        self.mispredictions = _counter(
            "mispredictions_total",
            "model version",
            f"Generated answers whose prediction was off by more than {HONEST_MS:g} ms and by more than "
            f"{HONEST_SHARE:.0%} of what was measured.",
        )
        self.server_ms = _histogram(
            "server_ms", "model version rung", "Time from the arrival of the last byte to the answer made."
        )
        self.stage_ms = _histogram(
            "stage_ms",
            "model stage",
            "Where the server time of a generated answer went: `plan` (from its arrival on), `queue`, `encode`, "
            "`generate`, `compose` (these three of its whole batch), and `hops`, the rest: between processes and "
            "threads.",
        )
        self.predicted_ms = _histogram(
            "predicted_server_ms", "model version", "Server time that the plan of a generated answer expected."
        )
        self.error_ms = _histogram(
            "prediction_error_ms",
            "model version",
            "Distance of predicted and measured server time of a generated answer.",
        )
        self.slack_ms = _histogram(
            "budget_slack_ms",
            "model version by",
            "What a generated answer leaves of its budget: `predicted` by its plan, `measured` with its server time.",
            bounds=SLACK_BOUNDS_MS,
        )
        self.batch_size = _histogram(
            "batch_size", "model", "Requests in a batch; a batch counts once.", unit="requests", bounds=BATCH_BOUNDS
        )
        self.queue_length = _gauge("queue_length", "", "Requests that wait for a batch.", unit="requests")
        self.predicted_wait_ms = _gauge(
            "predicted_wait_ms",
            "",
            "How long a request that arrives now would wait for a batch, for the model where that is longest.",
        )
        self.active = _gauge(
            "active_version", "model version", "1 for the version that new requests get, 0 for those before.", unit="1"
        )
        self.dropped_traces = _gauge(
            "dropped_traces", "", "Traces that were to be kept and are lost, since the start.", unit="traces"
        )
        self.started_s = _gauge("start_timestamp_seconds", "", "When this gateway started, Unix time.", unit="s")
        self.read_s = _gauge("read_timestamp_seconds", "", "When these values were read, Unix time.", unit="s")

    @property
    def families(self) -> Sequence[Total | Histogram]:
        """Every metric, in the order in which it is documented."""
        return [family for family in vars(self).values() if isinstance(family, Total | Histogram)]

    def samples(self) -> Iterator[Sample]:
        """Read every value."""
        for family in self.families:
            yield from family.samples()

    def finished(self, record: RequestRecord) -> None:
        """Add one request."""
        model, version, rung = record.model or UNKNOWN, record.version or UNKNOWN, record.rung
        self.requests.add(model, version, rung)
        self.server_ms.observe(model, version, rung, value=record.server_ms)
        if record.is_missed:
            self.misses.add(model, version, "none" if record.reason else "late")
        if record.reason:
            self.refusals.add(model, record.reason)
            return
        self.response_bytes.add(model, version, amount=record.content_bytes)
        if record.plan:
            self.plans.add(model, version, record.plan)
        if record.batch_size:
            self._generated(record, model, version)

    def _generated(self, record: RequestRecord, model: str, version: str) -> None:
        times, stage_ms = record.times, self.stage_ms
        stage_ms.observe(model, "plan", value=record.plan_ms)
        stage_ms.observe(model, "queue", value=times.queue_ms)
        stage_ms.observe(model, "encode", value=times.encode_ms)
        stage_ms.observe(model, "generate", value=times.generate_ms)
        stage_ms.observe(model, "compose", value=times.compose_ms)
        stage_ms.observe(model, "hops", value=record.hops_ms)
        error_ms = abs(record.predicted_ms - record.server_ms)
        self.predicted_ms.observe(model, version, value=record.predicted_ms)
        self.error_ms.observe(model, version, value=error_ms)
        if error_ms > HONEST_MS and error_ms > HONEST_SHARE * record.server_ms:
            self.mispredictions.add(model, version)
        predicted_slack_ms = record.budget_ms - record.network_ms - record.predicted_ms
        self.slack_ms.observe(model, version, "predicted", value=predicted_slack_ms)
        self.slack_ms.observe(model, version, "measured", value=record.slack_ms)


class StageMetrics:
    """Every metric of one replica of a stage in split placement: what it tells the autoscaler, seen from outside."""

    def __init__(self) -> None:
        """Start without values."""
        self._reported = {
            WAIT: _gauge(
                f"stage_{WAIT}",
                "",
                "How long a batch had to wait for the worker: 95th percentile of those since the last report.",
            ),
            LOAD: _gauge(
                f"stage_{LOAD}",
                "",
                "Part of the time that the work would have taken in batches as large as they get.",
                unit="1",
            ),
            BUSY: _gauge(f"stage_{BUSY}", "", "Part of the time in which the worker computed.", unit="1"),
            QUEUE: _gauge(f"stage_{QUEUE}", "", "Batches that wait for the worker.", unit="batches"),
        }

    @property
    def families(self) -> Sequence[Total]:
        """Every metric, in the order in which it is documented."""
        return list(self._reported.values())

    def reported(self, report: Mapping[str, float]) -> Iterator[Sample]:
        """Read the values of a report of ``Backlog``."""
        for name, value in report.items():
            self._reported[name].set(value=value)
            yield from self._reported[name].samples()


def _counter(name: str, labels: str, meaning: str, unit: str = "requests") -> Total:
    return Total(Metric(f"duet_{name}", "counter", unit, tuple(labels.split()), meaning))


def _gauge(name: str, labels: str, meaning: str, unit: str = "ms") -> Total:
    return Total(Metric(f"duet_{name}", "gauge", unit, tuple(labels.split()), meaning))


def _histogram(
    name: str, labels: str, meaning: str, *, unit: str = "ms", bounds: tuple[float, ...] = MS_BOUNDS
) -> Histogram:
    return Histogram(Metric(f"duet_{name}", "histogram", unit, tuple(labels.split()), meaning, bounds))
