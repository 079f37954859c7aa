"""``make audit`` is content only when every package was looked up and none is vulnerable."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "audit.py"
CLEAN: dict[str, Any] = {"name": "numpy", "version": "2.0", "vulns": []}
VULNERABLE: dict[str, Any] = {
    "name": "ray",
    "version": "2.0",
    "vulns": [{"id": "CVE-2026-27482", "fix_versions": ["2.54"]}],
}
UNKNOWN: dict[str, Any] = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}
OURS: dict[str, Any] = {"name": "duet-serve", "skip_reason": "Dependency not found on PyPI"}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    specification = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([CLEAN, OURS], 0, "1 of 1 packages looked up, 0 known"),
        ([CLEAN, VULNERABLE], 1, "ray 2.0: CVE-2026-27482, fixed in 2.54"),
        ([VULNERABLE, UNKNOWN], 1, "not looked up: torch"),
        ([CLEAN, UNKNOWN], 2, "not looked up: torch"),
        ([UNKNOWN], 2, "needs pypi.org"),
        ([], 2, "0 of 0"),
    ],
    ids=["clean", "vulnerable", "both", "partly", "offline", "empty"],
)
def test_the_verdict_counts_what_was_not_looked_up(
    audit: ModuleType, packages: list[dict[str, Any]], code: int, said: str
) -> None:
    verdict, lines = audit.verdict({"dependencies": packages})

    assert verdict == code
    assert said in "\n".join(lines)


def run(folder: Path, program: str) -> "subprocess.CompletedProcess[str]":
    """Audit an environment with a tool that does what a test says."""
    (folder / ".venv" / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    tool = folder / ".cache" / "audit" / "bin" / "pip-audit"
    tool.parent.mkdir(parents=True)
    tool.write_text(f"#!{sys.executable}\nimport json, sys\n{program}\n")
    tool.chmod(0o700)
    return subprocess.run([sys.executable, SCRIPT], cwd=folder, capture_output=True, text=True, check=False)


def test_without_a_network_it_says_what_it_needs(tmp_path: Path) -> None:
    process = run(tmp_path, "sys.exit('ConnectionError: Network is unreachable')")

    assert process.returncode == 2
    assert "Network is unreachable" in process.stderr
    assert "needs pypi.org" in process.stderr
    assert "Traceback" not in process.stderr


def test_the_exit_code_of_the_verdict_is_that_of_the_target(tmp_path: Path) -> None:
    report = json.dumps({"dependencies": [VULNERABLE]})

    assert run(tmp_path, f"print({report!r}); sys.exit(1)").returncode == 1


def test_an_environment_that_is_not_there_is_named(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, SCRIPT, "nowhere"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert process.returncode == 2
    assert "make setup" in process.stderr
