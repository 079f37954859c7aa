"""``duet device``: be a device once. Predict, ask the cloud for parameters, predict again, compare the two lists."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.arguments import (
    ApiKey,
    BudgetMs,
    LinkText,
    ModelName,
    SampleText,
    Sends,
    ServerUrl,
    SigningKeyFile,
    read_link,
    read_sample,
    read_signing_keys,
)

if TYPE_CHECKING:
    from rich.table import Table

    from duet.device.client import DuetDevice
    from duet.device.runtime import Ranking
    from duet.device.update import Update

CACHE = Path(".cache/devices")


def device(
    model: ModelName,
    sample: SampleText,
    url: ServerUrl = "http://127.0.0.1:8000",
    budget_ms: BudgetMs = 200,
    link: LinkText = "lte",
    sends: Sends = "sample",
    holds_decoders: Annotated[
        bool, typer.Option(help="Download the decoders, take embeddings, and generate parameters here.")
    ] = False,
    k: Annotated[int, typer.Option("--k", min=1, help="Length of the two lists.")] = 10,
    cache: Annotated[Path, typer.Option(help="Where device models are kept; each version is downloaded once.")] = CACHE,
    api_key: ApiKey = None,
    signing_key: SigningKeyFile = None,
) -> None:
    """Predict as a device would, with the shared parameters and with those the cloud generates for this sample.

    Both predictions run here, on ONNX Runtime; the sample or its embedding goes up, and only parameters come down.
    """
    from rich import print as rich_print

    from duet.device.client import DuetDevice

    read_sample(sample)  # what cannot be read at all is said before anything is downloaded
    connection = read_link(link)
    with DuetDevice(
        url,
        model,
        device_id="duet-device",
        cache=cache.expanduser(),
        link=connection,
        budget_ms=budget_ms,
        sends=sends,
        holds_decoders=holds_decoders,
        api_key=api_key,
        signing_key=read_signing_keys(signing_key),
    ) as phone:
        _prepare(phone)
        held = phone.manifest.version
        items = read_sample(sample, item_type=str(phone.manifest.signature.get("item_type", "any")))
        update = phone.update(items, raise_on_error=True)
        # both lists come from the model in place now, also when a new one came with the parameters
        before = phone.model.with_shared().predict(items, k=k)
        after = phone.predict(items, k=k)
        if update.model_replaced:
            typer.echo(
                f"replaced     the device model of {held}, by the one that is served; both lists are of the new one"
            )
        _print_update(phone, update)
    rich_print(_comparison(before, after))


def _prepare(phone: "DuetDevice") -> None:
    """Have a device model, or raise what the cloud said: it tells whose turn it is."""
    from duet.protocol.errors import DuetError, NoDeviceModel

    try:
        phone.prepare()
    except NoDeviceModel as error:
        cause = error.__cause__
        if isinstance(cause, DuetError):
            raise cause from cause.__cause__
        raise


def _print_update(phone: "DuetDevice", update: "Update") -> None:
    stages = ", ".join(f"{name} {milliseconds:g}" for name, milliseconds in update.server.items())
    manifest = phone.manifest
    typer.echo(f"model        {manifest.model} {manifest.version}, {len(phone.model.vocabulary):,} items")
    typer.echo(f"plan         {update.plan or 'not said'}: {update.status}")
    typer.echo(
        f"package      {update.package_bytes:,} bytes; {update.bytes_up:,} up and {update.bytes_down:,} down in all"
    )
    typer.echo(f"predicted    {_ms(update.predicted_ms)}, of which network {_ms(update.network_ms)}")
    typer.echo(f"server       {_ms(update.server_ms)}" + (f" ({stages})" if stages else ""))
    typer.echo(f"measured     {update.measured_ms:.1f} ms from asking to the swap, without the link\n")


def _ms(value: float | None) -> str:
    return "not said" if value is None else f"{value:.1f} ms"


def _comparison(before: "Ranking", after: "Ranking") -> "Table":
    """Both lists side by side; what moved says from where."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "shared parameters", "parameters for this sample", "", box=None, header_style="bold")
    places = {raw: place for place, raw in enumerate(before.ids, start=1)}
    for place, (raw, old, new) in enumerate(zip(after.ids, before.titles, after.titles, strict=True), start=1):
        was = places.get(raw)
        move = "new" if was is None else "" if was == place else f"from {was}"
        table.add_row(str(place), escape(old), escape(new), move)
    return table
