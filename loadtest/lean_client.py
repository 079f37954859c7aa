"""An HTTP client that costs a generator as little as Python can: ready-made requests, bare sockets, nothing decoded.

Locust's client, and what a simulated device does for one update, take longer than a small server does to answer, so
that a saturation run would find the capacity of the generator. Here a request is one ``send`` of bytes made before, a
reply is read to its last byte and put away; who judges it does so when the clock has stopped.
"""

import heapq
import re
import select
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import NamedTuple
from urllib.parse import urlsplit

_CONNECT_S = 5.0
_SILENCE_S = 15.0
_PAUSE_S = 0.25
_CHUNK_BYTES = 1 << 18
_STEP_S = 0.1
_SHED = (429, 503)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Exchange(NamedTuple):
    """A request and its reply; times in seconds on the clock of the run.

    Attributes:
        number: Of the request among those that were made before.
        due_s: When it was to be sent; in closed loop, when it was.
        sent_s: When it was.
        received_s: When the last byte was there.
        status: Of the reply; 0 where there was none.
        reply_bytes: Size of its body.
        reply: Head and body; empty where the last 200 for this request had the very same body.
        retries: How often it was sent before.
    """

    number: int
    due_s: float
    sent_s: float
    received_s: float
    status: int
    reply_bytes: int
    reply: bytes = b""
    retries: int = 0


Retry = Callable[[int, int, int, float], float | None]
"""Given request, status, retries so far and what Retry-After says, in seconds: the pause, or None to be content."""


class _Connection:
    """One socket with at most one request under way."""

    __slots__ = ("_address", "_context", "buffer", "due_s", "number", "place", "rest", "retries", "sent_s", "socket")

    def __init__(self, place: int, address: tuple[str, int], context: ssl.SSLContext | None) -> None:
        self.place, self._address, self._context = place, address, context
        self.socket: socket.socket | None = None
        self.buffer, self.rest, self.number, self.retries, self.due_s, self.sent_s = b"", b"", -1, 0, 0.0, 0.0

    def open(self) -> socket.socket:
        """Connect. Raises ``OSError``."""
        opened = socket.create_connection(self._address, timeout=_CONNECT_S)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            opened = self._context.wrap_socket(opened, server_hostname=self._address[0])
        opened.setblocking(False)
        self.socket = opened
        return opened

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        self.buffer = self.rest = b""

    def write(self, message: bytes) -> bool:
        """Send, or as much as there is room for; say whether that was all. Raises ``OSError``."""
        assert self.socket is not None
        try:
            sent = self.socket.send(message)
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent = 0
        self.rest = message[sent:]
        return not self.rest

    def read(self) -> tuple[int, int] | None:
        """Read what is there: status and size of the body once all of it is, None before that.

        Raises:
            OSError: If there is no more to come.
            ValueError: If it is no HTTP.
        """
        assert self.socket is not None
        while True:
            try:
                data = self.socket.recv(_CHUNK_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                return None
            if not data:
                raise ConnectionResetError("closed by the server")
            self.buffer = self.buffer + data if self.buffer else data
            head = self.buffer.find(b"\r\n\r\n")
            if head < 0:
                continue
            status = int(self.buffer[9:12])
            length = _LENGTH.search(self.buffer, 0, head + 2)
            size = int(length.group(1)) if length else 0
            if len(self.buffer) >= head + 4 + size:
                return status, size


class LeanClient:
    """Sends ready-made requests from one thread.

    Args:
        url: Of the server, ``http://`` or ``https://``.
        requests: What is sent, in turn: whole requests of HTTP/1.1, head and body.
        told: Is given each exchange as it ends, whole, in the place of ``exchanges``.

    Attributes:
        exchanges: What has come back, or was given up.
        dropped_s: When requests were due that were never sent, because too many were under way.
        cpu: Share of a core that this process took, by second of the run.
        under_way: Requests under way, by second of the run.
        cpu_s: Processor time that it took.
        started_s: When the last run started, by ``time.perf_counter``.
        ran_s: How long it lasted.

    Raises:
        ValueError: If the address is none.
    """

    def __init__(self, url: str, requests: Sequence[bytes], *, told: Callable[[Exchange], None] | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"Expected an address such as http://127.0.0.1:8000, got {url!r}.")
        self._context = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = (parts.hostname, parts.port or (443 if self._context else 80))
        self._requests, self._told = requests, told
        self._bodies: dict[int, bytes] = {}
        self._numbers = cycle(range(len(requests)))
        self._connections: list[_Connection] = []
        self._idle: Callable[[_Connection, float], None] = lambda connection, pause_s: None
        self.exchanges: list[Exchange] = []
        self.dropped_s: list[float] = []
        self.cpu: dict[int, float] = {}
        self.under_way: dict[int, int] = {}
        self._retry: Retry | None = None
        self.cpu_s = self.ran_s = self.started_s = 0.0

    def saturate(self, users: Callable[[float], float], seconds: float) -> None:
        """Keep a request of every user under way, each sending its next one at once; Ctrl-C ends it early.

        After 429, 503 and no answer a user waits, as devices do. What is under way at the end is forgotten.

        Args:
            users: How many there are at a time.
            seconds: How long.
        """
        asleep: list[tuple[float, int]] = []
        wanted = 0

        def idle(connection: _Connection, pause_s: float) -> None:
            if pause_s or connection.place >= wanted:
                heapq.heappush(asleep, (self._now_s() + (pause_s or _PAUSE_S), connection.place))
            else:
                self._send(connection)

        with self._running(idle):
            while (now_s := self._now_s()) < seconds:
                wanted = round(users(now_s))
                while len(self._connections) < wanted:
                    self._send(self._connected())
                while asleep and asleep[0][0] <= now_s:
                    idle(self._connections[heapq.heappop(asleep)[1]], 0.0)
                self._take(self._selector.select(min(_STEP_S, seconds - now_s)))

    def arrive(
        self, due: Iterable[float], seconds: float, *, most: int = 1000, ready: int = 0, retry: Retry | None = None
    ) -> None:
        """Send when requests are due, whatever has come back, and wait for the last replies; Ctrl-C ends it early.

        Args:
            due: When, in seconds from the start, ascending.
            seconds: How long, also where nothing is due at the end.
            most: How many may be under way; what is due beyond them is dropped.
            ready: Connections that are opened before the clock starts.
            retry: When to send again what was not answered; never by default.

        Raises:
            OSError: If one of those cannot be opened.
        """
        free: list[_Connection] = []

        def has_room() -> bool:
            return bool(free) or len(self._connections) < most

        def send(due_s: float, number: int | None = None, retries: int = 0) -> None:
            self._send(free.pop() if free else self._connected(), due_s, number, retries)

        def wait_until(at_s: float) -> None:
            # also where there is no time left to wait: replies are read here
            self._read(0.0)
            while (now_s := self._now_s()) < at_s:
                while self._again and self._again[0][0] <= now_s and has_room():
                    send(*heapq.heappop(self._again)[1:])
                until_s = min(at_s, now_s + _STEP_S)
                if self._again and has_room():
                    until_s = min(until_s, self._again[0][0])
                self._read(max(0.0, until_s - now_s))

        with self._running(lambda connection, _: free.append(connection), retry):
            for _ in range(min(ready, most)):
                free.append(connection := self._connected())
                self._selector.register(connection.open(), selectors.EVENT_READ, connection)
            self.started_s = time.perf_counter()
            for due_s in due:
                wait_until(due_s)
                if has_room():
                    send(due_s)
                else:
                    self.dropped_s.append(due_s)
            wait_until(seconds)
            while self._again or len(free) < len(self._connections):
                wait_until(self._now_s() + _STEP_S)

    @contextmanager
    def _running(self, idle: Callable[["_Connection", float], None], retry: Retry | None = None) -> Iterator[None]:
        self.exchanges, self.dropped_s, self.cpu, self.under_way = [], [], {}, {}
        self._bodies.clear()
        self._idle, self._retry = idle, retry
        self._again: list[tuple[float, float, int, int]] = []
        self._selector = selectors.DefaultSelector()
        self.started_s, self._watched_s = time.perf_counter(), 0.0
        self._watched_cpu_s = began_cpu_s = time.process_time()
        try:
            yield
        except KeyboardInterrupt:
            pass
        finally:
            self.ran_s, self.cpu_s = self._now_s(), time.process_time() - began_cpu_s
            for connection in self._connections:
                connection.close()
            self._connections.clear()
            self._selector.close()

    def _now_s(self) -> float:
        return time.perf_counter() - self.started_s

    def _connected(self) -> _Connection:
        connection = _Connection(len(self._connections), self._address, self._context)
        self._connections.append(connection)
        return connection

    def _send(
        self, connection: _Connection, due_s: float | None = None, number: int | None = None, retries: int = 0
    ) -> None:
        connection.number, connection.retries = next(self._numbers) if number is None else number, retries
        connection.sent_s = self._now_s()
        connection.due_s = connection.sent_s if due_s is None else due_s
        try:
            if connection.socket is None:
                self._selector.register(connection.open(), selectors.EVENT_READ, connection)
            assert connection.socket is not None
            if not connection.write(self._requests[connection.number]):
                self._selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
        except OSError:
            self._lost(connection)

    def _read(self, timeout_s: float) -> None:
        """Wait for replies, not a moment longer than that, and take them: selectors wait for whole milliseconds."""
        if timeout_s > 0:
            select.select([self._selector], [], [], timeout_s)
        self._take(self._selector.select(0))

    def _take(self, ready: Sequence[tuple[selectors.SelectorKey, int]]) -> None:
        for key, event in ready:
            connection: _Connection = key.data
            if connection.number < 0:
                # nobody asked: the server has closed an idle connection, or says more than it was asked for
                self._hang_up(connection)
                continue
            try:
                if event & selectors.EVENT_WRITE and connection.write(connection.rest):
                    self._selector.modify(key.fileobj, selectors.EVENT_READ, connection)
                if not event & selectors.EVENT_READ:
                    continue
                found = connection.read()
            except (OSError, ValueError):
                self._lost(connection)
                continue
            if found is not None:
                self._received(connection, *found)
        self._watch()

    def _received(self, connection: _Connection, status: int, size: int) -> None:
        now_s, reply = self._now_s(), connection.buffer
        connection.buffer = b""
        # a server that answers before it has read all of a request wants no more of it
        if connection.rest or _CLOSES.search(reply, 0, len(reply) - size):
            self._hang_up(connection)
        told_s = 0.0
        if status not in (200, 204) and (told := _RETRY_AFTER.search(reply, 0, len(reply) - size)):
            told_s = float(told.group(1))
        self._end(connection, now_s, status, size, reply, told_s)

    def _lost(self, connection: _Connection) -> None:
        self._hang_up(connection)
        self._end(connection, self._now_s(), 0, 0, b"", 0.0)

    def _end(
        self, connection: _Connection, now_s: float, status: int, size: int, reply: bytes, retry_after_s: float
    ) -> None:
        number, retries = connection.number, connection.retries
        pause_s = self._retry(number, status, retries, retry_after_s) if self._retry is not None else None
        if pause_s is not None:
            heapq.heappush(self._again, (now_s + pause_s, connection.due_s, number, retries + 1))
        elif self._told is not None:
            self._told(Exchange(number, connection.due_s, connection.sent_s, now_s, status, size, reply, retries))
        else:
            kept = b"" if status == 200 and self._is_repeated(number, reply[len(reply) - size :]) else reply
            self.exchanges.append(
                Exchange(number, connection.due_s, connection.sent_s, now_s, status, size, kept, retries)
            )
        connection.number = -1
        self._idle(connection, max(_PAUSE_S, retry_after_s) if status in (0, *_SHED) else 0.0)

    def _is_repeated(self, number: int, body: bytes) -> bool:
        """Whether a request got these bytes the last time too; they are not kept twice, so that all can be verified."""
        if self._bodies.get(number) == body:
            return True
        self._bodies[number] = body
        return False

    def _hang_up(self, connection: _Connection) -> None:
        if connection.socket is not None:
            self._selector.unregister(connection.socket)
        connection.close()

    def _watch(self) -> None:
        """Once a second: how much of a core this process takes, and who has waited for too long."""
        now_s = self._now_s()
        if now_s < self._watched_s + 1:
            return
        cpu_s = time.process_time()
        self.cpu[int(self._watched_s)] = (cpu_s - self._watched_cpu_s) / (now_s - self._watched_s)
        self.under_way[int(self._watched_s)] = sum(each.number >= 0 for each in self._connections)
        self._watched_s, self._watched_cpu_s = now_s, cpu_s
        for connection in self._connections:
            if connection.number >= 0 and now_s - connection.sent_s > _SILENCE_S:
                self._lost(connection)
