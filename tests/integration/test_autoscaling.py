"""Replicas really come when batches wait too long, really go when they do not, and no request is lost meanwhile."""

from pathlib import Path

import pytest

from tests.integration.benchmark_runs import run_benchmark
from tests.published_version import write_version

pytestmark = [pytest.mark.serve, pytest.mark.alone, pytest.mark.long]

BEFORE_S = 3
# what a machine that is busy with something else may add to each start of a replica
PATIENCE_S = 400


def test_replicas_follow_the_load_and_no_request_is_lost(tmp_path: Path) -> None:
    write_version(tmp_path / "models")
    # the step and the rest end when they have shown their effect, a minute later at most
    phases = [
        "--rounds",
        "1",
        "--warm-up-s",
        "3",
        "--before-s",
        str(BEFORE_S),
        "--step-s",
        "60",
        "--after-s",
        "60",
        "--hasty",
    ]

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

    most = max(second["replicas"] for second in seconds)
    assert {second["replicas"] for second in seconds[:BEFORE_S]} == {1}
    assert most >= 2
    assert seconds[-1]["replicas"] < most
    assert sum(second["due"] for second in seconds) > 300
    assert sum(second["failed"] + second["retried"] for second in seconds) == 0
    # what waited when there was one replica is answered in time when there are more, and when they have gone
    assert sum(second["in_time"] for second in seconds[-5:]) >= 0.9 * sum(second["due"] for second in seconds[-5:])
    assert (tmp_path / "autoscaling.svg").stat().st_size > 10_000
