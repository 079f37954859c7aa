"""Starts and stops a server of its own on this machine: Ray, the application, and the port that it listens on.

Ray reads its variables when it is imported, in every process, so ``ray`` and everything on top of it is imported here
inside functions, after the environment is set.
"""

import logging
import os
import signal
import ssl
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from app.access import check_key_files
from app.ending import exported, handle, interrupt, restore, stop_ray
from app.haproxy import INNER_PORTS, LOOPBACK, write_haproxy
from app.ports import free_port
from app.ray_token import prepare_token
from app.settings import BACKSTOP_S, AppSettings, Ingress, Listen, serving_environment
from app.tls import Certificate
from deployments.logs import configure_logs
from duet.registry import Registry

if TYPE_CHECKING:
    from ray.serve import Application

_OBJECT_STORE_BYTES = 256 * 2**20
_LEAST_CPUS = 2
_READY_TIMEOUT_S = 90.0
_POLL_S = 0.1
_NAME = "duet"
# ports that are the same for every Ray Serve on a machine, unless they are said to be others
_PRIVATE_PORTS = (
    *INNER_PORTS,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)
# the mode in which Ray runs on a machine that is no member of a cluster: its processes listen on the loopback interface
_LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_HAPROXY_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
}

Build: TypeAlias = Callable[[AppSettings], "Application"]
"""Makes a Ray Serve application."""


@dataclass(frozen=True)
class RunningServer:
    """A server that answers at ``url`` until ``stop``, or until the ``with`` block around it is left."""

    url: str
    logs: Path
    """The folder of the logs: ``worker-*.err`` holds ours, tracebacks included, and ``serve/`` those of Ray Serve."""
    _started: ExitStack

    def stop(self) -> None:
        """Stop the application and the whole Ray that was started for it; signals to end do not cut it short."""
        self._started.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def start(
    settings: AppSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ingress: Ingress = "direct",
    num_cpus: int | None = None,
    certificate: Certificate | None = None,
    is_quiet: bool = True,
    build: Build | None = None,
) -> RunningServer:
    """Start a server and return when it is ready.

    Args:
        settings: What to serve, and how.
        host: IPv4 address of this machine to listen on, or a name of it.
        port: Port to listen on; 0 takes a free one.
        ingress: Who listens.
        num_cpus: Cores that Ray may plan with; those of the machine by default, and never fewer than two.
        certificate: Listen with TLS.
        is_quiet: Leave the logs of the replicas in their files.
        build: Makes another application, to compare with; called when Ray may be imported.

    Raises:
        FileNotFoundError: If nothing is published in the folder of models.
        UnknownModel: If the only model to serve is not published.
        RegistryError: If an active version is not what was published.
        ValueError: If this machine lacks the accelerator.
        InvalidRequest: If the host is not an IPv4 address, or a name, of this machine; or the certificate not usable.
        InvalidKeyFile: If a file of keys is none.
        OSError: If the port is taken.
        RuntimeError: If the application does not become ready.
    """
    _check_models(settings)
    check_key_files(settings)
    if certificate is not None:
        certificate.check()
    port = free_port(host, port)
    check_accelerator(settings.accelerator)
    with ExitStack() as started:
        private = started.enter_context(tempfile.TemporaryDirectory(prefix="duet-", dir=_short_folder()))
        environment = serving_environment(ingress) | _private_environment(Path(private))
        started.enter_context(exported(environment))
        prepare_token(os.environ)
        http_options: dict[str, object] = {"host": host, "port": port}
        if ingress == "direct":
            settings = settings.model_copy(update={"listen": _listen(host, port, certificate)})
            http_options = {}
        elif ingress == "haproxy":
            closed = write_haproxy(Path(private), os.environ, host=host, port=port, certificate=certificate)
            started.enter_context(exported(closed))
            http_options["host"] = LOOPBACK  # only HAProxy listens further away
        elif certificate is not None:
            http_options |= {"ssl_certfile": str(certificate.chain), "ssl_keyfile": str(certificate.key)}

        started.callback(stop_ray)
        logs = _run(settings, http_options, num_cpus=num_cpus, is_quiet=is_quiet, build=build)
        url = f"{'http' if certificate is None else 'https'}://{host}:{port}"
        _wait_until_ready(f"{url}/readyz", logs, None if certificate is None else certificate.trusting())
        return RunningServer(url, logs, started.pop_all())


def serve_forever(
    settings: AppSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ingress: Ingress = "direct",
    num_cpus: int | None = None,
    certificate: Certificate | None = None,
    is_quiet: bool = False,
    on_ready: Callable[[RunningServer], None] | None = None,
    build: Build | None = None,
) -> None:
    """Serve until the process is asked to end, by Ctrl-C or SIGTERM; then stop everything that was started.

    From then on the process ignores both: asked twice, it would leave a part of Ray behind, or end as if it had failed.

    Args:
        settings: What to serve, and how.
        host: IPv4 address of this machine to listen on, or a name of it.
        port: Port to listen on.
        ingress: Who listens.
        num_cpus: Cores that Ray may plan with.
        certificate: Listen with TLS.
        is_quiet: Leave the logs of the replicas in their files.
        on_ready: Called once, when the server answers.
        build: Makes another application, to compare with; called when Ray may be imported.

    Raises:
        FileNotFoundError: If nothing is published in the folder of models.
        UnknownModel: If the only model to serve is not published.
        RegistryError: If an active version is not what was published.
        ValueError: If this machine lacks the accelerator.
        InvalidRequest: If the host is not an IPv4 address, or a name, of this machine; or the certificate not usable.
        InvalidKeyFile: If a file of keys is none.
        OSError: If the port is taken.
        RuntimeError: If the application does not become ready.
    """
    previous = handle(interrupt)
    try:
        with start(
            settings,
            host=host,
            port=port,
            ingress=ingress,
            num_cpus=num_cpus,
            certificate=certificate,
            is_quiet=is_quiet,
            build=build,
        ) as server:
            if on_ready is not None:
                on_ready(server)
            threading.Event().wait()
    except KeyboardInterrupt:
        # Python puts handlers of its own back to the default while it ends, but not this one
        handle(signal.SIG_IGN)
    except BaseException:
        restore(previous)
        raise


def _listen(host: str, port: int, certificate: Certificate | None) -> Listen:
    files = {} if certificate is None else {"certificate": certificate.chain, "private_key": certificate.key}
    return Listen(host=host, port=port, **{name: str(file) for name, file in files.items()})


def _run(
    settings: AppSettings,
    listen: Mapping[str, object],
    *,
    num_cpus: int | None,
    is_quiet: bool,
    build: Build | None,
) -> Path:
    import ray
    from ray import serve
    from ray.serve.schema import LoggingConfig

    if build is None:
        from app.builder import build_app

        build = build_app

    if is_quiet:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    context = ray.init(
        address="local",  # a Ray of its own, also where RAY_ADDRESS names another one
        num_cpus=max(num_cpus or os.cpu_count() or 1, _LEAST_CPUS),
        include_dashboard=False,
        log_to_driver=not is_quiet,
        logging_level="ERROR",
        object_store_memory=_OBJECT_STORE_BYTES,
    )
    # Ray sets a handler of its own, which ends the process without stopping what it has started
    signal.signal(signal.SIGTERM, on_sigterm)
    configure_logs(settings.log_format)
    logs = Path(context.address_info["session_dir"]) / "logs"
    logging_config = LoggingConfig(log_level="WARNING", enable_access_log=False)
    # cut off whatever its budget says: the gateway keeps to budgets itself
    http_options = {**listen, "request_timeout_s": BACKSTOP_S}
    proxies = "EveryNode" if listen else "Disabled"
    serve.start(proxies, http_options=http_options, logging_config=logging_config)
    target = serve.RunTarget(build(settings), name=_NAME, route_prefix="/", logging_config=logging_config)
    # without waiting: it would wait for ever for resources that this machine does not have
    serve.run_many([target], wait_for_applications_running=False)
    return logs


def _wait_until_ready(url: str, logs: Path, context: ssl.SSLContext | None) -> None:
    from ray import serve

    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5, context=context):
            return
        application = serve.status().applications[_NAME]
        if application.status == "DEPLOY_FAILED":
            # the last line of the traceback of a replica is the sentence of what it raised
            reasons = [
                f"{name}: {deployment.message.strip().splitlines()[-1]}"
                for name, deployment in application.deployments.items()
                if deployment.status == "DEPLOY_FAILED" and deployment.message.strip()
            ]
            told = "; ".join(reasons) or application.message
            raise RuntimeError(f"Expected the application to start, got {told} The logs are in {logs}.")
        time.sleep(_POLL_S)
    raise RuntimeError(f"Expected {url} to answer within {_READY_TIMEOUT_S:g} s, got nothing. Read the logs in {logs}.")


def _check_models(settings: AppSettings) -> None:
    """Fail here with one sentence, not in a replica with a page of traceback."""
    registry = Registry(settings.models)
    known = registry.models()
    names = known if settings.model is None else [settings.model]
    if not names:
        raise FileNotFoundError(
            f"Expected published models in {registry.root.absolute()}, got "
            f"{'none' if registry.root.is_dir() else 'no such folder'}. Publish a run there with "
            f"`duet publish RUN --models {registry.root}`, or name another folder with --models."
        )
    for name in names:
        registry.open(name)


def check_accelerator(accelerator: str) -> None:
    """Look for the accelerator before Ray waits for it until the start times out.

    Args:
        accelerator: As in ``AppSettings``.

    Raises:
        ValueError: If this machine lacks it.
    """
    if accelerator == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise ValueError(
            f"Expected a CUDA accelerator for accelerator {accelerator!r}, got a machine without one that torch "
            "can use. Serve with accelerator 'cpu', or install the driver and a CUDA build of torch."
        )


def _private_environment(folder: Path) -> dict[str, str]:
    """Keep HAProxy's admin socket in a folder of this user, and out of the way of servers that start meanwhile."""
    files = {name: str(folder / file) for name, file in _HAPROXY_FILES.items()}
    ports = {name: str(free_port("0.0.0.0", 0)) for name in _PRIVATE_PORTS}
    return files | ports | {_LOOPBACK_ONLY: "0"}


def _short_folder() -> str | None:
    """Choose where sockets go: the path of one is limited to about 100 bytes, most of which Ray uses up."""
    return "/tmp" if os.name == "posix" else None
