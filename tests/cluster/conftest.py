"""Leaves out what needs a program that this machine lacks, and says so at the end of the run.

Structure, schemas and syntax are checked without them.
"""

import shutil

import pytest

PROGRAMS = {"test_promtool.py": "promtool (Debian: prometheus)", "test_kustomize.py": "kubectl"}
collect_ignore = [file for file, program in PROGRAMS.items() if shutil.which(program.split()[0]) is None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for file in collect_ignore:
        terminalreporter.write_line(f"tests/cluster/{file} was not collected: {PROGRAMS[file]} is not installed")
