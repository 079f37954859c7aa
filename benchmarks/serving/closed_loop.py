"""Closed loop with ``wrk``: so many connections, each with its next request as soon as it has the answer."""

import json
import math
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.serving.bodies import bodies

_SCRIPT = Path(__file__).with_name("request.lua")
_PATIENCE_S = 30.0
"""For a first answer: what has never run is slow once."""


@dataclass(frozen=True)
class ClosedLoop:
    """What one run measured.

    Attributes:
        requests_s: Answers a second.
        p50_ms: Median of the time from sending to the last byte, on this machine.
        p95_ms: 95 % quantile.
        p99_ms: 99 % quantile.
        failed: Answers of 400 or above, broken connections and time-outs.
    """

    requests_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int


def write_bodies(path: Path, models: Path, model: str, *, budget_ms: float) -> list[str]:
    """Write requests with random samples of a ranking model, one a line; return them."""
    lines = bodies(models, model, budget_ms=budget_ms)
    path.write_text("\n".join(lines) + "\n")
    return lines


def load(url: str, model: str, bodies: Path, *, connections: int, seconds: float, cores: str) -> ClosedLoop:
    """Put a server under load from one thread of ``wrk``.

    Args:
        url: Where the server is.
        model: Whose parameters.
        bodies: File of requests.
        connections: How many at once.
        seconds: How long; whole ones, so it is rounded up.
        cores: The cores of the generator, as ``taskset -c`` reads them.

    Raises:
        FileNotFoundError: If ``wrk`` is not installed.
        RuntimeError: If it fails.
    """
    require_wrk()
    line = ["taskset", "-c", cores, "wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "--timeout", "10s"]
    line += ["-s", str(_SCRIPT), f"{url}/v1/models/{model}/parameters", "--", str(bodies)]
    finished = subprocess.run(line, capture_output=True, text=True)
    results = [told for told in finished.stdout.splitlines() if told.startswith("result ")]
    if finished.returncode or not results:
        raise RuntimeError(f"Expected a result of wrk, got {finished.stdout[-500:]}{finished.stderr[-500:]}")
    told = json.loads(results[0].removeprefix("result "))
    failed = told["failed"] + told["timeouts"]
    return ClosedLoop(told["requests"] / told["duration_s"], told["p50_ms"], told["p95_ms"], told["p99_ms"], failed)


def require_wrk() -> None:
    """Miss the load generator before anything is started.

    Raises:
        FileNotFoundError: If ``wrk`` is not installed.
    """
    if shutil.which("wrk") is None:
        raise FileNotFoundError("Expected wrk on the PATH, got none. Install it (Debian, Ubuntu: apt install wrk).")


def packages(url: str, model: str, bodies: list[str]) -> list[bytes]:
    """Ask for the packages of some requests, to compare the answers of two servers.

    Raises:
        HTTPStatusError: If one is refused.
    """
    with httpx.Client(base_url=url, headers={"Content-Type": "application/json"}, timeout=_PATIENCE_S) as client:
        answers = [client.post(f"/v1/models/{model}/parameters", content=body) for body in bodies]
    return [answer.raise_for_status().content for answer in answers]
