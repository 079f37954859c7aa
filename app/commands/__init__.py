"""The ``duet`` command: a table of subcommands, and the one place where a failure becomes an exit code.

    0    done
    1    it did not work, and the caller is not the reason: no server, no capacity, a diverged run
    2    the caller can fix it: an option, a file, an unknown model
    130  stopped by Ctrl-C

A command imports what it needs inside its function, so that ``duet --help`` loads neither torch nor ray.
"""

import errno
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS: Mapping[str, str] = {
    # subcommand, in the order of `duet --help`: where its function, or its own typer.Typer, lives
    "demo": "app.commands.demo.command:demo",
    "train": "app.commands.train:train",
    "evaluate": "app.commands.evaluate:evaluate",
    "report": "app.commands.report:report",
    "data": "app.commands.data:app",
    "publish": "app.commands.publish:publish",
    "models": "app.commands.models:app",
    "keys": "app.commands.keys:app",
    "serve": "app.commands.serve:serve",
    "top": "app.commands.top.command:top",
    "loadtest": "app.commands.loadtest.command:loadtest",
    "plan": "app.commands.plan:plan",
    "generate": "app.commands.generate:generate",
    "device": "app.commands.device:device",
}


EXTRAS: Mapping[str, str] = {
    # subcommand: what of pyproject.toml's optional dependencies it needs; the others need none
    "demo": "serve,train",
    "train": "train",
    "evaluate": "train",
    "report": "train",
    "data": "train",
    "publish": "train",
    "keys": "serve",
    "serve": "serve",
    "top": "serve",
    "loadtest": "serve,train,loadtest",
    "plan": "loadtest",
    "generate": "device",
    "device": "device",
}
SCALE_OUT = ("ray", "pandas", "pyarrow", "fsspec")
"""What only `duet train --workers` needs: Ray Train, and what that cannot be imported without."""

_OURS = frozenset({"app", "deployments", "duet", "kernels", "loadtest"})


class DuetGroup(TyperGroup):
    """Runs a subcommand and turns what it raises into one line on stderr and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the subcommands in the order of the table."""
        order = list(COMMANDS)
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand that ``ctx`` names.

        Raises:
            typer.Exit: With the exit code of the module's table, when the subcommand did not succeed.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("Stopped.", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            told = _missing_extra(error, ctx.invoked_subcommand)
            code = exit_code_of(error) if told is None else 2
            if code is None:
                raise
            if ctx.params.get("debug"):
                sys.excepthook(type(error), error, error.__traceback__)
            # a failure inside the cloud has notes: what it said, and the id of the request
            typer.echo(" ".join([f"duet: {told or error}", *getattr(error, "__notes__", ())]), err=True)
            raise typer.Exit(code) from error


def exit_code_of(error: Exception) -> int | None:
    """Say how the process ends when a subcommand raises ``error``.

    Returns:
        2 when the caller can fix it, 1 when not, None when the error is nobody's but ours and deserves its traceback.
    """
    from duet.protocol import access_errors, errors

    calling = (
        errors.RequestError
        | errors.DataError
        | errors.RegistryError
        | errors.UnusableRun
        | errors.DatasetTooSmall
        | access_errors.CredentialError
    )
    naming = FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError
    if isinstance(error, calling | naming):
        return 2
    # a port that is taken, a full disk; a closed pipe is no failure: the reader has seen enough
    if isinstance(error, errors.DuetError) or (isinstance(error, OSError) and error.errno != errno.EPIPE):
        return 1
    return None


def _missing_extra(error: Exception, command: str | None) -> str | None:
    """Say which extra to install where a library is missing that only some subcommands need."""
    library = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    extra = "scale-out" if command == "train" and library in SCALE_OUT else EXTRAS.get(command or "")
    if extra is None or not library or library in _OURS or library in sys.stdlib_module_names:
        return None
    return (
        f"Expected the library {library}, which `duet {command}` needs, got none. Install it with "
        f"pip install '.[{extra}]' in a checkout, or pip install 'duet-serve[{extra}]'."
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        from duet import __version__

        typer.echo(f"duet {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="duet",
    cls=DuetGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def describe(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback behind an error message.")] = False,
) -> None:
    """Generate the parameters of on-device models in the cloud: train, publish, serve, and try it as a device."""


def _add(name: str, target: str) -> None:
    module, attribute = target.split(":")
    command = getattr(import_module(module), attribute)
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name)(command)


for _name, _target in COMMANDS.items():
    _add(_name, _target)


def main() -> None:
    """Run ``duet`` with the arguments of this process; the entry point of the installed command."""
    app()
