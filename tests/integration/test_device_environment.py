"""The ``device`` extra in an environment of its own: it installs and passes its tests without torch, ray or fastapi."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.duet.device.make_fixture import make_device_model, make_encoder
from tests.duet.device.tiny_network import ENCODER_FIXTURES, FIXTURE

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("duet", "kernels", "deployments", "app", "loadtest")
ROOMS = ("device", "protocol")
CLOUD_ONLY = ("torch", "ray", "fastapi", "onnx", "triton", "locust")
PYTEST_INI = """[pytest]
addopts = --import-mode=importlib --strict-markers --strict-config
filterwarnings = error
"""


def run(command, **options):
    # neither the packages nor the settings of the environment that runs this test may leak in
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    process = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, **options
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


@pytest.mark.slow
def test_the_device_extra_works_where_nothing_of_the_cloud_is_installed(tmp_path):
    # copies: a build leaves files in its source, and the tests must meet the installed package, not the checkout
    checkout, tests = tmp_path / "checkout", tmp_path / "run" / "tests" / "duet"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, checkout / package, ignore=ignore)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, checkout)
    for room in ROOMS:
        shutil.copytree(ROOT / "tests" / "duet" / room, tests / room, ignore=ignore)
    shutil.copytree(ROOT / "docs", tmp_path / "run" / "docs")  # a test holds docs/protocol.md to the code
    # the settings of pyproject.toml name plugins and warnings of libraries that a device does not have
    (tmp_path / "run" / "pytest.ini").write_text(PYTEST_INI)
    python = tmp_path / "venv" / "bin" / "python"
    venv.create(tmp_path / "venv")

    # by the pip of this environment, into the other; what is never imported there need not be compiled
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-compile"]
    run([*pip, f"{checkout}[device]", "pytest", "hypothesis"])
    found = run(
        [python, "-c", f"import importlib.util as u; print([name for name in {CLOUD_ONLY} if u.find_spec(name)])"]
    )
    report = run([python, "-m", "pytest", "-q", "tests"], cwd=tmp_path / "run")

    assert found.strip() == "[]"
    assert " passed" in report
    assert "skipped" not in report


def test_the_committed_graphs_are_what_their_script_makes(tmp_path):
    made = tmp_path / "device.onnx"
    made.write_bytes(make_device_model().SerializeToString())

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in (made, FIXTURE)
    ]
    items = {"items": np.arange(1, 21).reshape(4, 5)}
    new, committed = (session.run(["scores"], items)[0] for session in sessions)
    np.testing.assert_array_equal(new, committed)
    for version, path in ENCODER_FIXTURES.items():
        assert make_encoder(version).SerializeToString() == path.read_bytes()
    assert sessions[0].get_modelmeta().custom_metadata_map == sessions[1].get_modelmeta().custom_metadata_map
