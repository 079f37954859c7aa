"""Rows of races that were never run."""

from benchmarks.peers.contenders import BENTOML, FINE_TUNING, LITSERVE, NAIVE, OURS, OURS_TWO, PLAIN, PLAIN_TWO, SPLIT
from benchmarks.peers.record import Row

LOADS = (1, 16, 64)


def row(
    contender: str = OURS,
    *,
    round: int = 1,
    connections: int = 16,
    requests_s: float = 1000.0,
    p99_ms: float = 10.0,
    variant: str = "as it is",
    failed: int = 0,
) -> Row:
    return Row(
        round=round,
        contender=contender,
        variant=variant,
        connections=connections,
        requests_s=requests_s,
        p50_ms=float(f"{p99_ms / 4:.4f}"),
        p95_ms=float(f"{p99_ms / 2:.4f}"),
        p99_ms=float(f"{p99_ms:.4f}"),
        failed=failed,
        resident_mib=300.0,
        cold_start_s=8.0,
        lines=40,
        lines_behind=1234,
        version="1.2.3",
        seconds=3.0,
        server_cores="0",
        load_cores="1",
        hardware="a machine",
        commit="abc",
    )


def won() -> list[Row]:
    """A race of three rounds in which ours reaches every target."""
    speeds = {OURS: 1000.0, SPLIT: 500.0, NAIVE: 100.0, PLAIN: 900.0, LITSERVE: 500.0, BENTOML: 400.0}
    pairs = {OURS_TWO: 2000.0, PLAIN_TWO: 1900.0}
    rows = [
        row(name, round=number, connections=connections, requests_s=speed, p99_ms=10_000 / speed)
        for number in (1, 2, 3)
        for name, speed in (speeds | pairs).items()
        for connections in LOADS
    ]
    return [*rows, *(row(FINE_TUNING, round=number, connections=1, requests_s=50.0) for number in (1, 2, 3))]
