"""What a race says: two tables for docs/results.md, and its targets with PASS or FAIL."""

import math
import statistics
from collections.abc import Iterable, Sequence

from benchmarks.peers.contenders import (
    BENTOML,
    FINE_TUNING,
    LITSERVE,
    MOST,
    OURS,
    OURS_TWO,
    PAIRS,
    PLAIN_TWO,
    known,
)
from benchmarks.peers.record import Row, counted, medians, ratio
from benchmarks.serving.verdict import Claim, at_least, at_most

CROWDED = (16, 64)
"""Numbers of connections at which ours is to be first."""

OVER_PEERS, ALONE = 1.7, 0.5
"""Ours to LitServe's and BentoML's throughput at least, and to the fastest one's at one connection."""


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Hold a race to its targets; what was not measured does not reach them.

    Args:
        rows: Of the record; trials do not count.
    """
    raced = list(dict.fromkeys(row.contender for row in counted(rows)))
    others = [name for name in raced if name not in (OURS, FINE_TUNING, *PAIRS)]
    made = []
    for connections in CROWDED:
        made += _first(rows, OURS, others, connections)
        for peer in (LITSERVE, BENTOML):
            found = ratio(rows, "requests_s", OURS, peer, connections)
            made.append(at_least(f"requests/s, {OURS} / {peer}, {connections} connections", found, OVER_PEERS, ".2f"))
    for connections in CROWDED:
        made += _first(rows, OURS_TWO, [PLAIN_TWO], connections)
    found = _least(ratio(rows, "requests_s", OURS, name, 1) for name in others)
    made.append(at_least(f"requests/s, {OURS} / the fastest, 1 connection", found, ALONE, ".2f"))
    failed = sum(row.failed for row in counted(rows) if row.contender == OURS)
    made.append(at_most(f"failed requests of {OURS}", float(failed), 0.0, ".0f"))
    return made


def _first(rows: Sequence[Row], one: str, others: Sequence[str], connections: int) -> list[Claim]:
    """Claim that one is before the others in throughput and in the 99 % quantile."""
    whom = others[0] if len(others) == 1 else "the best other"
    throughput = _least(ratio(rows, "requests_s", one, name, connections) for name in others)
    tail = -_least(-ratio(rows, "p99_ms", one, name, connections) for name in others)
    return [
        at_least(f"requests/s, {one} / {whom}, {connections} connections", throughput, 1.0, ".2f"),
        at_most(f"p99, {one} / {whom}, {connections} connections", tail, 1.0),
    ]


def _least(values: Iterable[float]) -> float:
    """Return the least; NaN if there is none, or one of them is NaN."""
    listed = list(values)
    return math.nan if not listed or any(map(math.isnan, listed)) else min(listed)


def tables(rows: Sequence[Row]) -> str:
    """Write what was measured as Markdown: speed by load, then what each contender takes and lacks."""
    return "\n".join([*_speed(rows), "", *_footprint(rows)])


def _speed(rows: Sequence[Row]) -> list[str]:
    names = [contender.name for contender in known()]
    lines = [
        "| connections | contender | requests/s | ours / it | p50 ms | p95 ms | p99 ms | ours / it | failed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for connections in sorted({row.connections for row in rows}):
        for name in names:
            its = medians(rows, name, connections)
            if its is None or name == FINE_TUNING:
                continue
            mine = OURS_TWO if name in PAIRS else OURS
            faster, slower = (ratio(rows, what, mine, name, connections) for what in ("requests_s", "p99_ms"))
            cells = (f"{its.p50_ms:.2f}", f"{its.p95_ms:.2f}", f"{its.p99_ms:.1f}", f"{slower:.2f}", f"{its.failed}")
            lines.append(
                f"| {connections} | {name} | {its.requests_s:,.0f} | {faster:.2f} | " + " | ".join(cells) + " |"
            )
    device = medians(rows, FINE_TUNING, 1)
    if device is not None:
        told = (
            f"{device.requests_s:,.0f} | – | {device.p50_ms:.2f} | {device.p95_ms:.2f} | {device.p99_ms:.1f} | – | – |"
        )
        lines.append(f"| a device | {FINE_TUNING} | {told}")
    return lines


def _footprint(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| contender | version | set up | memory MiB | cold start s | lines written | lines behind | cannot do |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for contender in known():
        its = [row for row in counted(rows) if row.contender == contender.name]
        if not its:
            continue
        memory, start = (
            statistics.median(getattr(row, what) for row in its) for what in ("resident_mib", "cold_start_s")
        )
        last = its[-1]
        setup = "" if last.variant == MOST else last.variant
        behind = f"{last.lines_behind:,}" if last.lines_behind else "–"
        cells = (contender.name, last.version, setup, f"{memory:,.0f}", f"{start:.1f}", f"{last.lines:,}", behind)
        lines.append("| " + " | ".join((*cells, contender.lacks)) + " |")
    return lines
