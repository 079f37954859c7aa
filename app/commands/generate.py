"""``duet generate``: ask a running server for the parameters of one sample, check the package, and show the answer."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
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
    from duet.device.cloud import Cloud

# more than any package of a model that fits on a device
LIMIT_BYTES = 256 * 2**20
# the server keeps to the budget; on top of it comes what a person is willing to wait for a connection
PATIENCE_S = 20.0


def generate(
    model: ModelName,
    sample: SampleText,
    url: ServerUrl = "http://127.0.0.1:8000",
    budget_ms: BudgetMs = 200,
    link: LinkText = "lte",
    sends: Sends = "sample",
    form: Annotated[list[str] | None, typer.Option(help="Accept only this form: factors, full, composed.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Accept only this dtype: float32, float16, int8.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the package to this file.")] = None,
    api_key: ApiKey = None,
    signing_key: SigningKeyFile = None,
) -> None:
    """Ask a running server for the parameters that suit one sample; show plan, times and package.

    The package is verified as on a device: checksum, version, layer table, finite numbers.
    """
    from duet.device.cloud import Cloud
    from duet.protocol.manifest import Manifest, digest_of
    from duet.protocol.package import ParameterPackage

    request = _request(sample, link, form or [], dtype or [])
    signing_keys = read_signing_keys(signing_key)
    with Cloud(url, model, api_key=api_key, signing_keys=signing_keys) as cloud:
        manifest_bytes = cloud.manifest()
        signature = Manifest.from_bytes(manifest_bytes, cloud.url).signature
        request["sample"] = read_sample(sample, item_type=str(signature.get("item_type", "any")))
        if sends == "embedding":
            request |= _embedded(cloud, model, manifest_bytes, request.pop("sample"))
        started_s = perf_counter()
        answer = cloud.parameters(
            request, budget_ms=budget_ms, timeout_s=PATIENCE_S + budget_ms / 1000, limit_bytes=LIMIT_BYTES
        )
        round_trip_ms = (perf_counter() - started_s) * 1000
        _print_times(answer.headers, round_trip_ms)
        if answer.status == 204:
            typer.echo("package      none: the device keeps what it holds")
            return
        described = cloud.manifest(answer.headers.get("Duet-Model-Version"))

    manifest = Manifest.from_bytes(described, cloud.url)
    package = ParameterPackage.decode(answer.body, manifest.layers, version=digest_of(described))
    layers = ", ".join(f"{layer.name} [{layer.outputs}, {layer.inputs}]" for layer in package.table.layers)
    typer.echo(f"package      {len(answer.body):,} bytes, {package.representation}, for {layers}")
    signed = "signature, " if signing_keys else ""
    typer.echo(f"verified     {signed}checksum, version, layer table, finite numbers")
    if out is not None:
        out.write_bytes(answer.body)
        typer.echo(f"written      {out}")


def _request(sample: str, link: str, forms: list[str], dtypes: list[str]) -> dict[str, object]:
    chosen = read_link(link)
    request: dict[str, object] = {
        "device": "duet-generate",
        "sample": read_sample(sample),
        "link": chosen if isinstance(chosen, str) else asdict(chosen),
    }
    if forms or dtypes:
        request["accepts"] = {
            "forms": forms or ["factors", "full", "composed", "shared"],
            "dtypes": dtypes or ["float32", "float16", "int8"],
        }
    return request


def _embedded(cloud: "Cloud", model: str, manifest_bytes: bytes, sample: object) -> Mapping[str, object]:
    """Make the embedding as a device does; it takes two more downloads: the device model has the vocabulary."""
    from duet.device.encoders import DeviceEncoder, download_encoder
    from duet.device.model_cache import DEVICE_FILE, install, read_manifest
    from duet.device.question import Question

    manifest = read_manifest(model, manifest_bytes)
    onnx = cloud.file("device-model", manifest.version, manifest.files[DEVICE_FILE].bytes)
    installed = install(model, manifest_bytes, onnx)
    encoder = DeviceEncoder.load(download_encoder(cloud, installed), installed)
    return Question.of_embedding(encoder.embed(sample), installed.digest).fields


def _print_times(headers: Mapping[str, str], round_trip_ms: float) -> None:
    said = {
        name: headers.get(name, "not said")
        for name in ("Duet-Plan", "Duet-Model-Version", "Duet-Tag", "Duet-Predicted-Ms", "Duet-Network-Ms")
    }
    typer.echo(f"plan         {said['Duet-Plan']}")
    typer.echo(f"version      {said['Duet-Model-Version']}")
    typer.echo(f"tag          {said['Duet-Tag']}")
    typer.echo(f"predicted    {said['Duet-Predicted-Ms']} ms, of which network {said['Duet-Network-Ms']} ms")
    typer.echo(f"server       {headers.get('Duet-Server-Ms', 'not said')} ms: {headers.get('Server-Timing', '')}")
    typer.echo(f"round trip   {round_trip_ms:.1f} ms, measured here without the link")
