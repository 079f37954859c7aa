"""The lean client: what it makes of replies, in pieces or never, and when it sends the next request."""

import os
import signal
import socket
import threading
from itertools import pairwise

import pytest

from loadtest.lean_client import LeanClient
from tests.loadtest.scripted_server import ScriptedServer, message

REQUESTS = [b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(5)]
OK = message(200, b"four")


def asked(answer, *, users=1, seconds=0.3):
    """Run a closed loop against a script; the client and the server."""
    with ScriptedServer(answer) as server:
        client = LeanClient(server.url, REQUESTS)
        client.saturate(lambda _: users, seconds)
    return client, server


def test_each_user_sends_its_next_request_when_its_reply_is_there():
    client, server = asked(lambda _: [OK], users=3)

    assert len(client.exchanges) > 30
    assert server.connections == 3
    assert {each.number for each in client.exchanges} == set(range(5))
    for each in client.exchanges:
        assert (each.status, each.reply_bytes) == (200, 4)
        assert each.due_s == each.sent_s < each.received_s
    # three at a time and no more: the fourth is sent after the first has come
    ordered = sorted(client.exchanges, key=lambda each: each.sent_s)
    ends = sorted(each.received_s for each in ordered)
    assert all(later.sent_s >= end for later, end in zip(ordered[3:], ends, strict=False))


def test_a_reply_in_pieces_is_one_reply():
    pieces = [OK[:3], OK[3:25], OK[25:-2], OK[-2:]]

    client, _ = asked(lambda _: pieces)

    assert {each.reply for each in client.exchanges if each.reply} == {OK}


@pytest.mark.parametrize(
    ("reply", "status", "size"),
    [
        (message(204, length=False), 204, 0),
        (message(200, b"x" * 300_000), 200, 300_000),
        (b"HTTP/1.1 200 OK\r\ncontent-length:4\r\n\r\nbody", 200, 4),
        (b"HTTP/1.1 200 OK\r\nX: 1\r\nCONTENT-LENGTH: 0\r\n\r\n", 200, 0),
    ],
)
def test_the_end_of_a_reply_is_where_its_head_says(reply, status, size):
    client, _ = asked(lambda _: [reply])

    assert len(client.exchanges) > 2
    assert {(each.status, each.reply_bytes) for each in client.exchanges} == {(status, size)}


def test_bytes_that_a_request_got_before_are_kept_once_and_every_other_reply_is_kept():
    # five requests in turn: the first round, a refusal, another body for request 2, and the first one again
    answers = {8: message(422), 12: message(200, b"five!"), 17: OK, 18: message(204)}
    client, _ = asked(lambda number: [answers.get(number, OK)])

    kept = [number for number, each in enumerate(client.exchanges) if each.reply]
    assert kept == [0, 1, 2, 3, 4, 8, 12, 17, 18]
    assert [client.exchanges[number].reply for number in (4, 12, 17)] == [OK, answers[12], OK]


def test_a_connection_that_is_closed_counts_as_no_answer_and_is_opened_again():
    client, server = asked(lambda number: None if number == 2 else [OK], seconds=0.6)

    assert [each.status for each in client.exchanges].count(0) == 1
    assert client.exchanges[2].status == 0
    assert client.exchanges[3].sent_s - client.exchanges[2].received_s >= 0.24
    assert server.connections == 2


def test_a_server_that_says_it_closes_is_not_asked_on_that_connection_again():
    client, server = asked(lambda number: [message(200, b"", b"Connection: close\r\n") if number == 0 else OK])

    assert {each.status for each in client.exchanges} == {200}
    assert server.connections == 2


def test_nobody_there_is_no_answer_and_no_hurry():
    with ScriptedServer(lambda _: [OK]) as server:
        url = server.url
    client = LeanClient(url, REQUESTS)

    client.saturate(lambda _: 2, 0.4)

    assert {each.status for each in client.exchanges} == {0}
    assert 2 <= len(client.exchanges) <= 6


def test_what_is_not_http_is_no_answer():
    client, _ = asked(lambda _: [b"HTTP/1.1 abc\r\n\r\n"])

    assert {each.status for each in client.exchanges} == {0}


@pytest.mark.parametrize(("headers", "pause_s"), [(b"", 0.25), (b"Retry-After: 1\r\n", 1.0)])
def test_who_is_shed_waits_as_long_as_the_server_says(headers, pause_s):
    client, _ = asked(lambda number: [message(429, b"", headers) if number == 0 else OK], seconds=pause_s + 0.3)

    first, second = client.exchanges[:2]
    assert first.status == 429
    assert pause_s <= second.sent_s - first.received_s < pause_s + 0.25


def test_users_come_and_go():
    client = None
    with ScriptedServer(lambda _: [OK]) as server:
        client = LeanClient(server.url, REQUESTS)
        client.saturate(lambda now_s: 4 if 0.3 <= now_s < 0.6 else 1, 1.0)

    assert server.connections == 4
    late = [each for each in client.exchanges if each.sent_s > 0.75]
    assert late
    assert all(first.received_s <= second.sent_s for first, second in pairwise(late))


def test_arrivals_are_sent_when_they_are_due_whatever_has_come_back():
    stall = threading.Event()
    threading.Timer(0.5, stall.set).start()
    with ScriptedServer(lambda number: [stall, OK] if number < 5 else [OK]) as server:
        client = LeanClient(server.url, REQUESTS)
        client.arrive([number / 50 for number in range(20)], 0.6)

    found = sorted(client.exchanges, key=lambda each: each.due_s)
    assert [each.due_s for each in found] == [number / 50 for number in range(20)]
    assert all(each.sent_s >= each.due_s for each in found)
    assert all(each.sent_s - each.due_s < 0.2 for each in found)
    assert all(each.received_s >= 0.4 for each in found[:5])
    assert all(each.received_s - each.due_s < 0.2 for each in found[5:])
    assert client.dropped_s == []
    assert client.ran_s >= 0.6


def test_connections_may_be_opened_before_the_clock_starts():
    with ScriptedServer(lambda _: [OK]) as server:
        client = LeanClient(server.url, REQUESTS)
        client.arrive([0.0, 0.1], 0.2, ready=3)

    assert [each.status for each in client.exchanges] == [200, 200]
    assert server.connections == 3


def test_what_is_due_beyond_those_under_way_is_dropped():
    stall = threading.Event()
    threading.Timer(0.4, stall.set).start()
    with ScriptedServer(lambda _: [stall, OK]) as server:
        client = LeanClient(server.url, REQUESTS)
        client.arrive([0.0, 0.01, 0.02, 0.03], 0.1, most=2)

    assert len(client.exchanges) == 2
    assert client.dropped_s == [0.02, 0.03]


def test_processor_time_is_told_by_the_second():
    client, _ = asked(lambda _: [OK], seconds=2.3)

    assert set(client.cpu) == {0, 1}
    assert all(0 < share <= 1.5 for share in client.cpu.values())
    assert 0 < client.cpu_s < 3
    assert client.ran_s == pytest.approx(2.3, abs=0.3)


def test_ctrl_c_ends_a_run_and_keeps_what_it_found():
    with ScriptedServer(lambda _: [OK]) as server:
        client = LeanClient(server.url, REQUESTS)
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
        client.saturate(lambda _: 1, 60)

    assert 0.4 < client.ran_s < 10
    assert client.exchanges


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match="Expected an address"):
        LeanClient(url, REQUESTS)


def test_what_is_to_be_retried_is_sent_again_after_a_pause_and_counts_from_when_it_was_due():
    told = []

    def retry(number, status, retries, retry_after_s):
        told.append((number, status, retries, retry_after_s))
        return 0.2 if status == 503 else None

    with ScriptedServer(lambda number: [message(503, b"", b"Retry-After: 7\r\n") if number < 2 else OK]) as server:
        client = LeanClient(server.url, REQUESTS)
        client.arrive([0.05], 0.1, retry=retry)

    (found,) = client.exchanges
    assert told == [(0, 503, 0, 7.0), (0, 503, 1, 7.0), (0, 200, 2, 0.0)]
    assert (found.status, found.retries, found.due_s) == (200, 2, 0.05)
    assert found.sent_s >= 0.45


def test_a_request_larger_than_the_sockets_take_at_once_is_sent_whole():
    size, received = 8_000_000, []

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            opened, _ = listening.accept()
            with opened:
                while sum(received) < size:
                    received.append(len(opened.recv(1 << 16)))
                opened.sendall(OK)
                opened.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        client = LeanClient(f"http://127.0.0.1:{listening.getsockname()[1]}", [b"x" * size])
        client.arrive([0.0], 0.1)
        thread.join(10)

    assert sum(received) == size
    assert [each.status for each in client.exchanges] == [200]


def test_a_server_that_answers_before_it_has_read_all_gets_no_more_on_that_connection():
    with ScriptedServer(lambda _: [message(413)]) as server:
        client = LeanClient(server.url, [b"x" * 64_000_000])  # more than the buffers of two sockets hold
        client.arrive([0.0, 0.3], 0.4)

    assert [each.status for each in client.exchanges] == [413, 413]
    assert server.connections == 2


def test_an_idle_connection_that_the_server_closes_is_no_lost_request():
    with ScriptedServer(lambda _: [OK, None]) as server:
        client = LeanClient(server.url, REQUESTS)
        client.arrive([0.0, 0.3], 0.5)

    assert [(each.number, each.status) for each in client.exchanges] == [(0, 200), (1, 200)]
    assert server.connections == 2


def test_a_retry_that_finds_no_room_waits_without_taking_the_processor():
    stall = threading.Event()
    threading.Timer(1.5, stall.set).start()
    with ScriptedServer(lambda number: [message(503)] if number == 0 else [stall, OK]) as server:
        client = LeanClient(server.url, REQUESTS)
        client.arrive([0.0, 0.1], 1.2, most=1, retry=lambda _, status, *__: 0.2 if status == 503 else None)

    assert sorted((each.status, each.retries) for each in client.exchanges) == [(200, 0), (200, 1)]
    assert client.cpu_s < 0.5
