"""Which port of which address a server of this machine listens on: free ones, and addresses that exist here."""

import errno
import random
import socket

from duet.protocol.errors import InvalidRequest

_PORTS_TO_CHOOSE = range(20_000, 30_000)
_TRIED_PORTS = 100
_SHOWN_CHARACTERS = 80


def free_port(host: str, port: int) -> int:
    """Return the port if nobody listens on it, or a free one for 0.

    HAProxy would share a port that another server of this user listens on, and the system's own choice for 0 is from
    the range that it gives to Ray's processes a moment later.

    Raises:
        InvalidRequest: If the host is not an IPv4 address, or a name, of this machine.
        OSError: If the port is taken.
    """
    if not host.strip() or ":" in host:
        # an empty one would be all interfaces; an IPv6 one does not fit into the `host:port` that Ray gives to HAProxy
        raise _unusable_host(host)
    for candidate in [port] if port else random.sample(_PORTS_TO_CHOOSE, _TRIED_PORTS):
        try:
            _bind(host, candidate)
        except (socket.gaierror, ValueError) as error:
            raise _unusable_host(host) from error  # a name that nobody knows, or that cannot be one
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise _unusable_host(host) from error
            if port:
                told = f"Expected port {port} of {host} to be free, got: {error.strerror}. Choose another port."
                raise OSError(told) from error
        else:
            return candidate
    raise OSError(f"Expected a free port in {_PORTS_TO_CHOOSE}, got none. Name a port.")


def _unusable_host(host: str) -> InvalidRequest:
    return InvalidRequest(
        detail="Expected an IPv4 address of this machine to listen on, or a name of it, got "
        f"{host[:_SHOWN_CHARACTERS]!r}. Use 127.0.0.1 for this machine alone, or 0.0.0.0 to let others in."
    )


def _bind(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
