"""docs/api.md says what the code does: every code and status, every argument, the variables to export."""

import re
from pathlib import Path

from app.problems import STATUS
from app.schemas import ParametersRequest
from app.settings import AppSettings, serving_environment

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


def test_every_failure_stands_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", PAGE, re.MULTILINE)
    documented = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}

    of_http = {(404, "not_found"), (405, "method_not_allowed"), (500, "internal_error")}
    assert documented == {(status, error.code) for error, status in STATUS.items()} | of_http


def test_every_field_and_every_argument_is_named() -> None:
    names = {*ParametersRequest.model_fields, *AppSettings.model_fields}

    assert not [name for name in names if f"`{name}`" not in PAGE]


def test_the_variables_are_those_that_duet_serve_sets_on_linux() -> None:
    exported = dict(re.findall(r"^export (\w+)=(\S+)$", PAGE, re.MULTILINE))

    # a Ray that `duet serve` starts asks for its token by default
    assert exported == serving_environment("haproxy", "linux") | {"RAY_AUTH_MODE": "token"}
