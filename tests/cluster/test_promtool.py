"""Prometheus' own tool checks the rules and plays every case of ``alerts_test.yaml``; collected where it is there."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.manifests import CLUSTER, rule_groups


@pytest.mark.slow
@pytest.mark.parametrize("command", [["check", "rules", "rules.yaml"], ["test", "rules", "alerts_test.yaml"]])
def test_promtool_agrees(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": rule_groups()}), encoding="utf-8")
    shutil.copy(CLUSTER / "alerts_test.yaml", tmp_path)

    done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
