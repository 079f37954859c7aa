"""The line to the cloud over real sockets: it waits no longer than it was told, and hangs on nothing."""

import socket
import threading
import time
from contextlib import contextmanager

import pytest

from duet.device.cloud import Cloud
from duet.protocol.errors import CloudUnreachable, DuetError


@contextmanager
def server(serve):
    """A TCP server on this machine that treats each connection with ``serve``."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_connections = []

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            open_connections.append(connection)
            serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in open_connections:
            connection.close()
        thread.join(10)


def ask(url, timeout_s=0.3):
    with Cloud(url, "films") as cloud:
        return cloud.parameters({"sample": [1]}, budget_ms=100, timeout_s=timeout_s, limit_bytes=1000)


def say_nothing(connection):
    pass


def stop_after_the_head(connection):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nDUET")


def hang_up(connection):
    connection.recv(65536)
    connection.close()


def hang_up_in_the_body(connection):
    stop_after_the_head(connection)
    connection.close()


def speak_no_http(connection):
    connection.recv(65536)
    connection.sendall(b"220 mail.test ESMTP\r\n")
    connection.close()


@pytest.mark.parametrize(
    "serve",
    [say_nothing, stop_after_the_head, hang_up, hang_up_in_the_body, speak_no_http],
    ids=lambda each: each.__name__,
)
def test_a_cloud_that_does_not_answer_is_given_up_in_time(serve):
    with server(serve) as url:
        started = time.monotonic()

        with pytest.raises(CloudUnreachable):
            ask(url)

        assert time.monotonic() - started < 5


def test_nobody_at_the_address_is_told_as_such():
    with server(say_nothing) as url:
        pass

    with pytest.raises(CloudUnreachable, match="twice"):
        ask(url)


def test_an_answer_over_a_socket_counts_its_bytes():
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nduet-plan: shared\r\n\r\n"
    received = bytearray()

    def serve(connection):
        while not received.endswith(b"}"):
            received.extend(connection.recv(65536))
        connection.sendall(head + b"DUET")

    with server(serve) as url:
        answer = ask(url, timeout_s=10)

    assert (answer.status, answer.body, answer.headers["Duet-Plan"]) == (200, b"DUET", "shared")
    assert answer.bytes_down == len(head) + 4
    assert answer.bytes_up == len(received)


def test_every_refusal_is_a_leaf_of_the_tree():
    def serve(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 418 I'm a teapot\r\ncontent-length: 5\r\n\r\nshort")

    with server(serve) as url, pytest.raises(DuetError, match="418") as raised:
        ask(url, timeout_s=10)

    assert raised.value.code == "invalid_request"
