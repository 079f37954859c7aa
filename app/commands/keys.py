"""``duet keys``: make, list and revoke API keys, and make the keys that sign packages."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from app.keys import ApiKey

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys, and make the keys that sign packages.")

KeyFile = Annotated[Path, typer.Option("--file", help="The file of API keys: `duet serve --api-keys`.")]
SigningFile = Annotated[Path, typer.Option("--file", help="The file of signing keys: `duet serve --signing-keys`.")]


@app.command()
def create(
    file: KeyFile = Path("api-keys.jsonl"),
    label: Annotated[str, typer.Option(help="Whose it is, in words.")] = "",
    rate: Annotated[float | None, typer.Option(help="Requests a second; no limit by default.")] = None,
    burst: Annotated[
        int | None, typer.Option(min=1, help="Requests at once; one second's worth of the rate by default.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends: 2027-01-31, 2027-01-31T12:00:00Z or 90d; never by default.")
    ] = None,
) -> None:
    """Add a key and show it, this once: the file holds only its hash. A running server takes it within a second."""
    from pydantic import ValidationError

    from app.keys import create_key, write_keys
    from app.mistakes import told
    from duet.protocol.private_file import locked

    until = None if expires is None else _moment(expires)
    with locked(file):
        keys = _read(file, may_be_new=True)
        try:
            text, key = create_key(
                label=label, rate_per_s=rate, burst=burst, expires=until, taken=[key.id for key in keys]
            )
        except ValidationError as error:
            raise typer.BadParameter(f"{told(error.errors(include_url=False))}.") from error
        write_keys(file, [*keys, key])
    # the key alone goes to stdout, so that it can be piped to where it is needed
    typer.echo(text)
    typer.echo(f"Added key {key.id} to {file}. This is the only time that the key itself is shown.", err=True)


@app.command(name="list")
def list_keys(file: KeyFile = Path("api-keys.jsonl")) -> None:
    """List the keys: ids, labels, rates and expiry."""
    from rich import print as rich_print
    from rich.markup import escape
    from rich.table import Table

    table = Table("id", "label", "rate/s", "burst", "expires", "", box=None, header_style="bold")
    now = datetime.now(UTC)
    for key in _read(file):
        rate = key.rate
        limits = ("", "") if rate is None else (f"{rate.per_s:g}", str(rate.burst))
        until = "" if key.expires is None else key.expires.astimezone(UTC).isoformat(timespec="seconds")
        table.add_row(key.id, escape(key.label), *limits, until, "expired" if key.is_expired(now) else "")
    rich_print(table)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, or `expired` for all that are.")],
    file: KeyFile = Path("api-keys.jsonl"),
) -> None:
    """Remove a key. A running server refuses it within a second."""
    from app.keys import write_keys
    from duet.protocol.private_file import locked

    now = datetime.now(UTC)
    with locked(file):
        keys = _read(file)
        kept = [key for key in keys if not (key.is_expired(now) if name == "expired" else key.id == name)]
        if name != "expired" and len(kept) == len(keys):
            known = ", ".join(key.id for key in keys) or "none"
            raise typer.BadParameter(f"Expected the id of a key in {file}, {known}, got {name!r}.", param_hint="ID")
        write_keys(file, kept)
    typer.echo(f"Revoked {len(keys) - len(kept)}; {len(kept)} left in {file}.")


@app.command()
def signing(
    name: Annotated[str, typer.Argument(metavar="ID", help="Id of the new key, such as 2027-01; devices see it.")],
    file: SigningFile = Path("signing-keys.jsonl"),
    first: Annotated[
        bool, typer.Option("--first", help="Sign with it from now on; else it only stands ready for devices.")
    ] = False,
) -> None:
    """Add a key that signs packages. The server signs with the first one of the file; devices need the same file."""
    from duet.protocol.private_file import locked
    from duet.protocol.signing import SigningKey, read_signing_keys, write_signing_keys

    with locked(file):
        keys = list(read_signing_keys(file)) if file.exists() else []
        if name in [key.id for key in keys]:
            raise typer.BadParameter(f"Expected an id that {file} does not have, got {name!r}.", param_hint="ID")
        try:
            key = SigningKey.create(name)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="ID") from error
        keys = [key, *keys] if first else [*keys, key]
        write_signing_keys(file, keys)
    typer.echo(f"Added signing key {name} to {file}; {keys[0].id} signs.")


@app.command(name="sign-with")
def sign_with(
    name: Annotated[str, typer.Argument(metavar="ID", help="Id of the key that is to sign from now on.")],
    file: SigningFile = Path("signing-keys.jsonl"),
) -> None:
    """Sign with another key of the file. A running server does within a second."""
    from duet.protocol.private_file import locked
    from duet.protocol.signing import read_signing_keys, write_signing_keys

    with locked(file):
        keys = read_signing_keys(file)
        chosen = [key for key in keys if key.id == name]
        if not chosen:
            known = ", ".join(key.id for key in keys)
            raise typer.BadParameter(f"Expected a key of {file}, {known}, got {name!r}.", param_hint="ID")
        write_signing_keys(file, [*chosen, *(key for key in keys if key.id != name)])
    typer.echo(f"{name} signs.")


def _read(file: Path, *, may_be_new: bool = False) -> "list[ApiKey]":
    from app.keys import read_keys

    if may_be_new and not file.exists():
        return []
    return list(read_keys(file).values())


def _moment(text: str) -> datetime:
    try:
        if text.endswith("d"):
            return datetime.now(UTC).replace(microsecond=0) + timedelta(days=int(text[:-1]))
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"Expected a date, a moment such as 2027-01-31T12:00:00Z, or days such as 90d, got {text!r}.",
            param_hint="--expires",
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
