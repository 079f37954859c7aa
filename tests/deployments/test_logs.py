"""What our loggers say in a process of its own has a time, a level and a logger, and is said once."""

import json
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


def test_as_json_a_line_is_one_object_with_what_is_known_beside_it() -> None:
    said = (
        "from deployments.logs import REQUEST_ID\n"
        "configure_logs('json'); REQUEST_ID.set('r-1')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.getLogger('app.api').exception('broken %d', 7, extra={'count': 3})"
    )

    (line,) = stderr_of(said)

    document = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", document.pop("time"))
    assert "ZeroDivisionError" in document.pop("error")
    assert document == {
        "level": "ERROR",
        "logger": "app.api",
        "message": "broken 7",
        "request_id": "r-1",
        "count": 3,
    }


def test_as_text_the_request_that_is_being_answered_is_named_once() -> None:
    said = (
        "from deployments.logs import REQUEST_ID\n"
        "configure_logs(); log = logging.getLogger('app'); log.info('before'); REQUEST_ID.set('r-1')\n"
        "log.info('meanwhile'); log.info('of r-1 itself')"
    )

    before, meanwhile, itself = stderr_of(said)

    assert before.endswith("before")
    assert meanwhile.endswith("meanwhile [request r-1]")
    assert itself.endswith("of r-1 itself")


def test_while_a_batch_is_computed_a_line_names_the_first_of_its_requests() -> None:
    said = (
        "from deployments.logs import naming\n"
        "configure_logs(); log = logging.getLogger('deployments')\n"
        "with naming(['r-1', '', 'r-2']): log.warning('two')\n"
        "with naming([f'r-{number}' for number in range(64)]): log.warning('many')\n"
        "with naming(['']): log.warning('unknown')\n"
        "log.warning('none')"
    )

    two, many, unknown, none = stderr_of(said)

    assert two.endswith("two [requests r-1, r-2]")
    assert many.endswith("many [requests r-0, r-1, r-2, r-3, r-4 and 59 more]")
    assert unknown.endswith(": unknown")
    assert none.endswith(": none")


def test_as_json_they_are_a_list_beside_their_number() -> None:
    said = (
        "from deployments.logs import naming\nconfigure_logs('json')\n"
        "with naming([f'r-{number}' for number in range(64)]): logging.getLogger('deployments').warning('many')"
    )

    (line,) = stderr_of(said)

    document = json.loads(line)
    assert (document["request_ids"], document["requests"]) == (["r-0", "r-1", "r-2", "r-3", "r-4"], 64)


def test_the_format_can_be_set_later() -> None:
    (line,) = stderr_of("configure_logs(); configure_logs('json'); logging.getLogger('app').warning('x')")

    assert json.loads(line)["message"] == "x"
