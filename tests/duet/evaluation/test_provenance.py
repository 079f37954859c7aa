"""Every record says where it comes from, on machines without git too."""

import json
import re

from duet.evaluation.provenance import commit, provenance


def test_a_record_carries_commit_hardware_and_versions():
    record = provenance()

    assert record["commit"]
    assert re.search(r", \d+ cores$", record["hardware"])
    assert record["versions"].keys() == {"torch", "numpy", "onnxruntime", "python"}
    assert json.loads(json.dumps(record)) == record


def test_a_machine_without_git_has_an_unknown_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert commit() == "unknown"
