"""What Ray's agent would export for gateways that have answered some requests."""

from collections.abc import Iterable

from deployments.metrics import Metrics, Sample
from deployments.telemetry import Origin, RequestRecord, StageTimes

RAY = 'Component="core_worker",NodeAddress="192.0.2.1",WorkerId="w",application="duet",otel_scope_name="ray"'


class Replica:
    """One gateway; counts with the real metrics."""

    def __init__(self, name: str = "a1", *, started_s: float = 1000.0) -> None:
        self.name, self.metrics = name, Metrics()
        self.metrics.started_s.set(value=started_s)
        self.metrics.queue_length.set(value=0)
        self.metrics.active.set("demo", "v1", value=1)

    def answer(self, count: int = 1, *, model: str = "demo", server_ms: float = 7.0, **fields: object) -> None:
        """Answer requests alike."""
        for _ in range(count):
            known = {"plan": "factors-r4-int8", "batch_size": 4, "times": StageTimes(1.0, 2.0, 3.0, 0.5)}
            record = RequestRecord(50.0, Origin(), 0.0, model=model, version="v1", **{**known, **fields})
            record.server_ms, record.content_bytes, record.predicted_ms = server_ms, 1000, 5.0
            self.metrics.finished(record)

    def text(self, read_s: float) -> str:
        """Export at a time."""
        self.metrics.read_s.set(value=read_s)
        lines = ["# HELP ray_tasks Other metrics of Ray", "# TYPE ray_tasks gauge", 'ray_tasks{State="x"} 3.0']
        lines.append(f'ray_serve_deployment_replica_healthy{{{RAY},deployment="Gateway",replica="{self.name}"}} 1.0')
        return "\n".join([*lines, *exported(self.metrics.samples(), "Gateway", self.name)]) + "\n"


def exported(samples: Iterable[Sample], deployment: str, replica: str) -> Iterable[str]:
    """Spell what a replica publishes as Ray's agent does."""
    for sample in samples:
        own = "".join(f',{name}="{value}"' for name, value in sample.labels.items())
        yield f'ray_{sample.name}{{{RAY},deployment="{deployment}",replica="{replica}"{own}}} {sample.value}'
