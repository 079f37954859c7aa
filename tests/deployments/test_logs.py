"""What our loggers say in a process of its own has a time, a level and a logger, and is said once."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 (INFO|WARNING|ERROR) [a-z_.]+: .*$")


def stderr_of(statements: str) -> list[str]:
    program = f"import logging\nfrom deployments.logs import configure_logs\n{statements}"
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return process.stderr.splitlines()


@pytest.mark.parametrize("name", ["app.catalog", "deployments.encoder", "duet.registry", "kernels.dispatcher"])
def test_a_line_is_told_once_with_time_level_and_logger(name: str) -> None:
    said = f"configure_logs(); configure_logs(); logging.getLogger('{name}').info('a version')"

    (line,) = stderr_of(said)

    assert LINE.match(line)
    assert line.endswith(f" INFO {name}: a version")


def test_below_info_nothing_is_said() -> None:
    assert not stderr_of("configure_logs(); logging.getLogger('app').debug('detail')")


@pytest.mark.parametrize("first", ["configure_logs()", "logging.basicConfig(format='theirs %(message)s')"])
def test_where_the_process_has_a_handler_of_its_own_that_one_writes(first: str) -> None:
    both = "configure_logs(); logging.basicConfig(format='theirs %(message)s')"

    assert stderr_of(f"{first}; {both}; logging.getLogger('app').warning('once')") == ["theirs once"]


def test_a_level_that_somebody_has_set_stays() -> None:
    said = "logging.getLogger('app').setLevel('ERROR'); configure_logs(); logging.getLogger('app.catalog').warning('x')"

    assert not stderr_of(said)
