"""The line to the cloud over real sockets: it waits no longer than it was told, and hangs on nothing."""

import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from duet.device import DuetDevice
from duet.device.cloud import DOWNLOAD_TIMEOUT_S, Cloud
from duet.protocol.errors import CloudUnreachable, DuetError, InvalidName
from tests.duet.device.fake_cloud import URL, Clock, FakeCloud


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


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://a:b",
        "http://a:99999",
        "http://a:0",
        "http://",
        "http://a..b",
        f"http://{'a' * 70}.test",
        "cloud.test",
        "ftp://cloud.test",
    ],
)
def test_an_address_that_no_request_can_go_to_is_refused_at_once(url, tmp_path):
    with pytest.raises(ValueError, match="Expected the cloud's address") as refusal:
        Cloud(url, "films")
    with pytest.raises(ValueError, match="Expected the cloud's address"):
        DuetDevice(url, "films", device_id="phone-1", cache=tmp_path)

    assert repr(url) in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["http://[::1]:8000", "https://cloud.test/duet/", "http://b\u00fccher.test", "HTTP://a:1"]
)
def test_an_address_that_a_request_can_go_to_is_taken(url):
    Cloud(url, "films").close()


@pytest.mark.parametrize("model", ["../films", "", "Films", "a/b"])
def test_a_name_that_no_model_has_never_becomes_a_path(model):
    with pytest.raises(InvalidName):
        Cloud(URL, model)


def test_a_download_that_hangs_says_how_long_it_was_waited_for():
    clock, fake = Clock(), FakeCloud()

    def hang(request):
        clock.now += 30.6
        raise httpx.ReadTimeout("slow", request=request)

    fake.fail(hang)
    with (
        Cloud(URL, "films", transport=fake.transport, clock=clock) as cloud,
        pytest.raises(CloudUnreachable, match=r"none came within 30\.6 s"),
    ):
        cloud.manifest()
    assert DOWNLOAD_TIMEOUT_S > 30.6
