"""The ports that a server really listens on, by ``ss -ltn``, and those that docs/security.md says it does.

psutil knows which processes are the server's and what they are called. Where there is no ``ss`` it names the sockets as
well: both read the kernel's own table (``/proc/net/tcp``, ``tcp6``, or the same by netlink) and the descriptors of the
processes.
"""

import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_SETTLED_S = 20.0
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "security.md"
LOOPBACK, ALL = "loopback", "all"
_HEADER = "| process | when | interface | port | what for | who gets in |"
_WORKER = re.compile(r"ray::(?:ServeReplica:duet:)?(\w+)")
_OWNER = re.compile(r",pid=(\d+),fd=\d+\)")

Socket = tuple[int, str, int]
"""Process, address and port."""


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
    root = psutil.Process(pid)
    names = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            names[process.pid] = "duet serve" if process == root else _name(process)
        except psutil.NoSuchProcess:
            assert process != root, "the server has ended"  # another listened to nothing that is left
    read = READERS.get("ss", READERS["psutil"])
    return [Listener(names[owner], _interface(address), port) for owner, address, port in read(names)]


def _by_ss(pids: Collection[int]) -> Iterator[Socket]:
    """Read the lines of ``ss -ltn``, with the processes that each socket belongs to."""
    command = ["ss", "--listening", "--tcp", "--numeric", "--processes", "--no-header"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in table.splitlines():
        address, _, port = line.split()[3].rpartition(":")
        for owner in sorted({int(owner) for owner in _OWNER.findall(line)} & set(pids)):
            yield owner, "::" if address == "*" else address.strip("[]").partition("%")[0], int(port)


def _by_psutil(pids: Collection[int]) -> Iterator[Socket]:
    """Ask every process for its sockets; one that has ended has none."""
    for owner in pids:
        with suppress(psutil.NoSuchProcess):
            for connection in psutil.Process(owner).net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    yield owner, connection.laddr.ip, connection.laddr.port


READERS: dict[str, Callable[[Collection[int]], Iterator[Socket]]] = {
    "psutil": _by_psutil,
    **({"ss": _by_ss} if shutil.which("ss") else {}),
}
"""Ways to list the listening sockets of some processes that this machine has."""


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
