"""``duet serve``: a server of its own on this machine, until Ctrl-C."""

import os
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.arguments import ModelsFolder, sample_text

if TYPE_CHECKING:
    from app.server import RunningServer
    from app.settings import AppSettings


class Placement(StrEnum):
    """Where the stages run."""

    COLOCATED = "colocated"
    SPLIT = "split"


class IngressName(StrEnum):
    """Who listens on the port."""

    DIRECT = "direct"
    HAPROXY = "haproxy"
    PYTHON = "python"


class LogFormatName(StrEnum):
    """How a line of the log is spelt."""

    TEXT = "text"
    JSON = "json"


def serve(
    models: ModelsFolder = Path("models"),
    model: Annotated[
        str | None, typer.Option("--model", help="The only model to serve; all published ones by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    placement: Annotated[
        Placement, typer.Option(help="All stages in one process (lowest latency), or one deployment a stage.")
    ] = Placement.COLOCATED,
    accelerator: Annotated[str, typer.Option(help="Where parameters are generated: cpu, cuda, cuda:1.")] = "cpu",
    max_batch: Annotated[int, typer.Option(min=1, help="Most requests that are computed together.")] = 64,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="Cores that Ray may plan with; all of the machine by default.")
    ] = None,
    ingress: Annotated[
        IngressName, typer.Option(help="Who listens: the server itself (fastest), or one of Ray Serve's proxies.")
    ] = IngressName.DIRECT,
    log_format: Annotated[
        LogFormatName, typer.Option(help="Lines of the log: text, or one JSON object each.")
    ] = LogFormatName.TEXT,
    trace_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of requests to trace, besides those whose budget ran out.")
    ] = 0.01,
    trace_file: Annotated[
        Path | None,
        typer.Option(help="Append traces to this file as JSON lines; OTEL_EXPORTER_OTLP_ENDPOINT sends them instead."),
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option(help="File of API keys, see `duet keys`; nobody is asked for one by default.")
    ] = None,
    signing_keys: Annotated[
        Path | None, typer.Option(help="File of signing keys, see `duet keys signing`; the first signs packages.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of a certificate: listen with TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its private key.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the logs of the replicas here.")] = False,
) -> None:
    """Serve published models on this machine until Ctrl-C.

    Follows `duet models activate` and `rollback` while it runs: no restart, no refused request.
    """
    find_server()
    from pydantic import ValidationError

    from app.server import check_accelerator, serve_forever
    from app.settings import AppSettings, serving_environment
    from app.tls import Certificate
    from app.tracing import check_tracing

    try:
        serving_environment(ingress.value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--ingress") from error
    try:
        settings = AppSettings(
            models=str(models.expanduser()),
            model=model,
            placement=placement.value,
            accelerator=accelerator,
            max_batch=max_batch,
            log_format=log_format.value,
            trace_ratio=trace_ratio,
            trace_file=None if trace_file is None else str(trace_file.expanduser().absolute()),
            api_keys=None if api_keys is None else str(api_keys.expanduser()),
            signing_keys=None if signing_keys is None else str(signing_keys.expanduser()),
        )
    except ValidationError as error:
        # all others are checked by their types already
        told = f"Expected cpu, cuda or cuda with a number such as cuda:1, got {accelerator!r}."
        raise typer.BadParameter(told, param_hint="--accelerator") from error
    try:
        check_accelerator(settings.accelerator)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--accelerator") from error
    try:
        check_tracing(os.environ, settings.trace_file)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--trace-file") from error
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("Expected both --tls-cert and --tls-key, got one of them.", param_hint="--tls-cert")
    certificate = None
    if tls_cert is not None and tls_key is not None:
        certificate = Certificate(tls_cert.expanduser().absolute(), tls_key.expanduser().absolute())
    typer.echo("Starting; the first answer takes some seconds.")
    try:
        serve_forever(
            settings,
            host=host,
            port=port,
            ingress=ingress.value,
            num_cpus=cpus,
            certificate=certificate,
            is_quiet=not verbose,
            on_ready=lambda server: _announce(settings, server),
        )
    except RuntimeError as error:
        # a replica that did not come up: its own traceback is in the logs that the sentence names
        typer.echo(f"duet: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo("Stopped.")


def find_server() -> None:
    """Miss what serves before anything is done; Ray is not imported, which has to wait for its variables.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    for library in ("fastapi", "ray", "torch"):
        if find_spec(library) is None:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)


def _announce(settings: "AppSettings", server: "RunningServer") -> None:
    from duet.protocol.signature import SequenceSignature
    from duet.registry import Registry

    registry = Registry(settings.models)
    names = [settings.model] if settings.model else registry.models()
    for name in names:
        typer.echo(f"Serving {name} {registry.active(name)}")
    typer.echo(f"Listening on {server.url} ({settings.placement}, {settings.accelerator}); logs in {server.logs}")
    published = registry.open(names[0])
    is_sequence = isinstance(published.signature(), SequenceSignature)
    sample = sample_text(published.vocabulary().ids[:3]) if is_sequence else "@FILE"
    typer.echo(f"Try: duet device --url {server.url} --model {names[0]} --sample {sample}")
    typer.echo(f"Watch: duet top --url {server.url}")
