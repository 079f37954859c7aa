"""Load on a server while parts of it are killed: what became of the requests, and how long every recovery took."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.serving.open_loop import OpenLoop, count, quantile
from benchmarks.serving.verdict import Claim, at_least, at_most
from duet.evaluation.provenance import provenance

LEAST_SUCCESS = 0.999
"""Of the requests that are to be answered, one retry included."""

_POLL_S = 0.1


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        killed: What was: nodes or replicas.
        kills: How many.
        recoveries: After how many of them everything ran again.
        requests: Sent, retries not counted.
        not_sent: Because the load generator was the limit.
        success: Share of the requests that were answered, one retry included.
        first_try: Share of the requests that needed no retry.
        in_time: Share of the requests that were answered within the budget.
        p50_ms: Median latency of the answers.
        p99_ms: And its 99th percentile.
        slowest_recovery_s: From a kill until every replica ran again and the server was ready.
        statuses: Last statuses, and how often each.
    """

    killed: str
    kills: int
    recoveries: int
    requests: int
    not_sent: int
    success: float
    first_try: float
    in_time: float
    p50_ms: float
    p99_ms: float
    slowest_recovery_s: float
    rate: float
    statuses: str
    hardware: str
    commit: str

    def claims(self, *, kills: int) -> list[Claim]:
        """Hold it against what was to be shown.

        Args:
            kills: How many there were to be.
        """
        return [
            at_least(f"{self.killed} killed", self.kills, max(1, kills), ".0f"),
            at_least("success with one retry", self.success, LEAST_SUCCESS, ".5f"),
            at_least("recoveries of these", self.recoveries, self.kills, ".0f"),
            at_most("requests that the generator could not send", self.not_sent, 0, ".0f"),
        ]


@contextmanager
def loaded(load: OpenLoop) -> Iterator[None]:
    """Send requests for as long as a block lasts, then wait for the last answer.

    Raises:
        RuntimeError: If the load generator fails.
    """
    failures: list[BaseException] = []

    def send() -> None:
        try:
            load.run()
        except BaseException as error:
            failures.append(error)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield
    finally:
        load.stop()
        sending.join()
    if failures:
        raise RuntimeError("Expected the load generator to run to its end, got a failure.") from failures[0]


def wait_until(is_true: Callable[[], bool], *, seconds: float) -> bool:
    """Wait until something is true; return whether it became so in time."""
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        if is_true():
            return True
        time.sleep(_POLL_S)
    return False


def summarize(load: OpenLoop, killed: str, *, kills: int, recoveries_s: Sequence[float]) -> Result:
    """Count what became of the requests.

    Args:
        load: After its end.
        killed: What was killed.
        kills: How many.
        recoveries_s: How long every recovery took that there was.
    """
    outcomes, replies, known = count(load.replies), load.replies, provenance()
    latencies = [reply.latency_ms for reply in replies if reply.status in (200, 204)]
    statuses = {
        status: sum(reply.status == status for reply in replies) for status in {each.status for each in replies}
    }
    sent = len(replies) or math.nan
    return Result(
        killed=killed,
        kills=kills,
        recoveries=len(recoveries_s),
        requests=len(replies),
        not_sent=load.dropped,
        success=round(len(latencies) / sent, 5),
        first_try=round(sum(not reply.retried for reply in replies) / sent, 5),
        in_time=round(outcomes["in-time"] / sent, 5),
        p50_ms=round(quantile(latencies, 0.5), 1),
        p99_ms=round(quantile(latencies, 0.99), 1),
        slowest_recovery_s=round(max(recoveries_s, default=math.nan), 1),
        rate=load.rate(0.0),
        statuses=" ".join(f"{status}:{number}" for status, number in sorted(statuses.items())),
        hardware=str(known["hardware"]),
        commit=str(known["commit"]),
    )
