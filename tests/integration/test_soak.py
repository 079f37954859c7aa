"""A short soak reads every process of a running server, answers in time, and fits a line to what it read."""

from pathlib import Path

import pytest

from tests.integration.benchmark_runs import run_benchmark
from tests.published_version import write_version

pytestmark = [pytest.mark.serve, pytest.mark.long]


def test_a_server_under_load_is_watched(tmp_path: Path) -> None:
    write_version(tmp_path / "models")
    options = ["--minutes", "0.25", "--every-s", "0.5", "--rate", "20", "--plot", str(tmp_path / "soak.svg")]
    cores = ["--server-cores", "0,1", "--load-cores", "0,1"]

    readings = run_benchmark(
        "serving.soak", tmp_path / "models", tmp_path, *options, *cores, seconds=400, has_verdict=True
    )

    names = {reading["process"] for reading in readings}
    assert {"all", "raylet", "gcs_server"} <= names
    assert any("Gateway" in name for name in names)
    assert max(reading["requests"] for reading in readings) > 200
    assert min(reading["resident_mib"] for reading in readings) > 0
    assert (tmp_path / "soak.svg").stat().st_size > 10_000
