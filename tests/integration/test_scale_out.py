"""The split placement spreads over nodes, and goes on when one of them dies with everything that runs on it."""

from pathlib import Path

import pytest

from tests.integration.benchmark_runs import run_benchmark
from tests.published_version import write_version

pytestmark = [pytest.mark.serve, pytest.mark.long]


def test_a_node_comes_and_another_one_dies_under_load(tmp_path: Path) -> None:
    write_version(tmp_path / "models")

    (found,) = run_benchmark(
        "serving.scale_out",
        tmp_path / "models",
        tmp_path,
        "--rounds",
        "1",
        "--calm-s",
        "3",
        "--rate",
        "10",
        # requests are to be answered, however long a busy machine takes
        "--budget-ms",
        "10000",
        seconds=400,
        has_verdict=True,
    )

    assert (found["killed"], found["kills"], found["recoveries"]) == ("nodes", 1, 1)
    assert found["requests"] > 50
    # one retry is enough, but for what was under way twice while the death was not yet known
    assert found["success"] >= 0.97
    assert found["slowest_recovery_s"] > 0
