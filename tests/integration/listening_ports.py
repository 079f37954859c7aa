"""The ports that a server really listens on, and those that docs/security.md says it does."""

import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

_SETTLED_S = 20.0
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "security.md"
LOOPBACK, ALL = "loopback", "all"
_HEADER = "| process | when | interface | port | what for | who gets in |"
_WORKER = re.compile(r"ray::(?:ServeReplica:duet:)?(\w+)")


@dataclass(frozen=True)
class Listener:
    """One listening socket of a process of the server."""

    process: str
    interface: str
    port: int


@dataclass(frozen=True)
class DocumentedPort:
    """One row of the table."""

    process: str
    when: str
    interface: str
    port: str
    who: str

    @property
    def may_be_missing(self) -> bool:
        return self.port.endswith(" if free")

    def is_(self, listener: Listener, *, host: str, port: int) -> bool:
        """Whether a socket is one that this row describes."""
        interface = host if self.interface == "`--host`" else self.interface
        if (self.process, interface) != (listener.process, listener.interface):
            return False
        if self.port == "random":
            return listener.port >= 32_768
        if self.port == "`--port`":
            return listener.port == port
        first, _, last = self.port.removesuffix(" if free").partition("–")
        return int(first) <= listener.port <= int(last or first)


def documented(*, placement: str, ingress: str) -> list[DocumentedPort]:
    """The rows that hold for a way to start the server."""
    lines = DOCUMENT.read_text(encoding="utf-8").split(_HEADER)[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:] if line.startswith("|")]
    ports = [DocumentedPort(process, when, interface, port, who) for process, when, interface, port, _, who in rows]
    assert {port.when for port in ports} == {"always", "split", "direct", "haproxy", "python", "proxy"}
    proxy = () if ingress == "direct" else ("proxy",)
    return [port for port in ports if port.when in ("always", placement, ingress, *proxy)]


def listening(pid: int) -> list[Listener]:
    """Every TCP socket that a process and those below it listen on."""
    found = []
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            name = "duet serve" if process == root else _name(process)
            connections = process.net_connections("tcp")
        except psutil.NoSuchProcess:
            assert process != root, "the server has ended"
            continue  # it listened to nothing that is left
        found += [
            Listener(name, _interface(connection.laddr.ip), connection.laddr.port)
            for connection in connections
            if connection.status == psutil.CONN_LISTEN
        ]
    return found


def differences(
    listeners: list[Listener], rows: list[DocumentedPort], *, host: str, port: int
) -> tuple[list[Listener], list[DocumentedPort]]:
    """What listens and is not documented, and what is documented and does not listen; rows count once each."""
    # the rows that say most go first, or a random one would take the port of another
    left = Counter(sorted(rows, key=lambda row: row.port == "random"))
    undocumented = []
    for listener in listeners:
        row = next((row for row in left.elements() if row.is_(listener, host=host, port=port)), None)
        if row is None:
            undocumented.append(listener)
        else:
            left[row] -= 1
    return undocumented, [row for row in left.elements() if not row.may_be_missing]


def settled(pid: int, rows: list[DocumentedPort], *, host: str, port: int) -> list[Listener]:
    """What listens once it is what is documented, or after a while: HAProxy is replaced when a replica has come."""
    deadline_s, pause = time.monotonic() + _SETTLED_S, threading.Event()
    while True:
        found = listening(pid)
        if differences(found, rows, host=host, port=port) == ([], []) or time.monotonic() > deadline_s:
            return found
        pause.wait(0.2)


def _interface(address: str) -> str:
    address = address.removeprefix("::ffff:")
    if address in ("127.0.0.1", "::1"):
        return LOOPBACK
    return ALL if address in ("0.0.0.0", "::") else address


def _name(process: psutil.Process) -> str:
    command = process.cmdline()
    worker = _WORKER.match(command[0])
    if worker:
        return worker[1]
    script = next((part for part in command[1:3] if part.endswith(".py")), command[0])
    return Path(script).name
