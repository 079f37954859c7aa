"""The command line as a whole: help, exit codes, Ctrl-C, messages."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import duet
from app.commands import COMMANDS, DuetGroup, app
from duet.protocol import errors

ROOT = Path(__file__).resolve().parents[3]
runner = CliRunner()

CALLERS_MISTAKES = [
    errors.UnknownModel(model="films", known=["songs"]),
    errors.BudgetTooSmall(budget_ms=10, smallest_ms=80),
    errors.InvalidData(path="u.data", line=3, expected="4 columns", received="2", remedy="Remove the row."),
    errors.CorruptVersion(path="models/films/v1", reason="it lacks device.onnx"),
    errors.UnusableRun(path="runs/1", reason="it has no checkpoint", remedy="Train it again."),
    errors.DatasetTooSmall(what="users", count=1, needed=2),
    FileNotFoundError(2, "No such file or directory"),
]
OTHER_FAILURES = [
    errors.Overloaded(retry_after_s=1),
    errors.CloudUnreachable(url="http://127.0.0.1:1", reason="connection refused"),
    errors.NonFiniteParameters(model="films", version="v1"),
    errors.CorruptPackage(reason="it is empty"),
    errors.DivergedTraining(step=7, loss=float("nan")),
    OSError(98, "Address already in use"),
]


def command_that_raises(error: BaseException) -> typer.Typer:
    """A command line with one subcommand, built like `duet`."""
    line = typer.Typer(cls=DuetGroup, pretty_exceptions_enable=False)

    @line.callback()
    def describe(debug: bool = False) -> None:
        """Take the options of `duet`."""

    @line.command()
    def fail() -> None:
        raise error

    return line


def test_help_lists_every_command_with_a_sentence() -> None:
    result = runner.invoke(app, ["--help"])

    assert result.exit_code == 0
    assert all(f" {name} " in result.output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself_and_every_option_it_has(name: str) -> None:
    result = runner.invoke(app, [name, "--help"], env={"COLUMNS": "200"})

    assert result.exit_code == 0
    assert f"Usage: duet {name}" in result.output
    options = [line for line in result.output.splitlines() if "--" in line and "│" in line]
    assert options
    assert not [line for line in options if len(line.strip("│ ").split()) < 4]


def test_a_command_lives_in_the_module_of_its_name() -> None:
    assert all(re.match(rf"app\.commands\.{name}[.:]", target) for name, target in COMMANDS.items())


@pytest.mark.parametrize(
    ("error", "code"),
    [(error, 2) for error in CALLERS_MISTAKES] + [(error, 1) for error in OTHER_FAILURES],
    ids=[type(error).__name__ for error in CALLERS_MISTAKES + OTHER_FAILURES],
)
def test_a_failure_is_one_line_on_stderr_and_an_exit_code(error: Exception, code: int) -> None:
    result = runner.invoke(command_that_raises(error), ["fail"])

    assert result.exit_code == code
    assert result.stderr == f"duet: {error}\n"
    assert result.stdout == ""


def test_debug_shows_the_traceback_behind_the_line() -> None:
    error = errors.UnknownModel(model="films", known=[])

    result = runner.invoke(command_that_raises(error), ["--debug", "fail"])

    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith(f"duet: {error}\n")


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    result = runner.invoke(command_that_raises(KeyError("nobody expected this")), ["fail"])

    assert isinstance(result.exception, KeyError)
    assert result.exit_code == 1


def test_ctrl_c_ends_a_running_command_with_130_and_one_line() -> None:
    program = (
        "import threading, typer\n"
        "from app.commands import DuetGroup\n"
        "line = typer.Typer(cls=DuetGroup)\n"
        "@line.callback()\n"
        "def describe(): pass\n"
        "@line.command()\n"
        "def work():\n"
        "    print('working', flush=True)\n"
        "    threading.Event().wait(60)\n"
        "line(['work'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"

    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)

    assert (process.returncode, stderr) == (130, "Stopped.\n")


def test_version_is_the_version_of_the_package() -> None:
    result = runner.invoke(app, ["--version"])

    assert (result.exit_code, result.output) == (0, f"duet {duet.__version__}\n")


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["generate"], ["models", "show"]], ids=["command", "option", "argument"]
)
def test_what_is_unknown_or_missing_is_named_and_exits_with_2(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)

    assert result.exit_code == 2
    assert "Usage: duet" in result.stderr
