"""Replicas of every stage are killed in turn under load, each is replaced, and hardly a request is lost."""

from pathlib import Path

import pytest

from tests.integration.benchmark_runs import run_benchmark
from tests.published_version import write_version

pytestmark = [pytest.mark.serve, pytest.mark.long]


def test_a_gateway_and_an_encoder_die_under_load(tmp_path: Path) -> None:
    write_version(tmp_path / "models")
    # requests are to be answered, however long a busy machine takes
    options = ["--seconds", "20", "--period-s", "10", "--rate", "10", "--budget-ms", "10000"]

    (found,) = run_benchmark(
        "serving.replica_deaths", tmp_path / "models", tmp_path, *options, seconds=500, has_verdict=True
    )

    assert (found["kills"], found["recoveries"]) == (2, 2)
    assert found["requests"] > 100
    assert found["success"] >= 0.97
