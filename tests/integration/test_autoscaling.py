"""Replicas really come when batches wait too long, really go when they do not, and no request is lost meanwhile."""

from pathlib import Path

import pytest

from tests.integration.benchmark_runs import run_benchmark
from tests.published_version import write_version

pytestmark = [pytest.mark.serve, pytest.mark.slow]

STEP_S, DROP_S = 5, 35
# what a machine that is busy with something else may add to each start of a replica
PATIENCE_S = 400


def test_replicas_follow_the_load_and_no_request_is_lost(tmp_path: Path) -> None:
    write_version(tmp_path / "models")
    phases = ["--warm-up-s", "3", "--before-s", str(STEP_S), "--step-s", str(DROP_S - STEP_S), "--after-s", "35"]

    seconds = run_benchmark(
        "serving.autoscaling",
        tmp_path / "models",
        tmp_path,
        *phases,
        "--downscale-delay-s",
        "3",
        seconds=PATIENCE_S,
        has_verdict=True,
    )

    before, during, after = seconds[:STEP_S], seconds[STEP_S:DROP_S], seconds[DROP_S:]
    most = max(second["replicas"] for second in during + after)
    assert {second["replicas"] for second in before} == {1}
    assert most >= 2
    assert after[-1]["replicas"] < most
    assert sum(second["due"] for second in seconds) > 1000
    assert sum(second["failed"] + second["retried"] for second in seconds) == 0
    # what waited when there was one replica is answered in time when there are more
    assert sum(second["in_time"] for second in after[-10:]) >= 0.9 * sum(second["due"] for second in after[-10:])
    assert (tmp_path / "autoscaling.svg").stat().st_size > 10_000
