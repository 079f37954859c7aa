"""The load generator keeps to its rate whatever the server does, and tells what was lost from what was refused."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.serving.open_loop import OpenLoop, quantile

RATE, SECONDS = 200.0, 0.5
SAID = {"Duet-Version": "ab", "Duet-Server-Ms": "1.5", "Duet-Predicted-Ms": "7.25", "Duet-Network-Ms": "5"}
CONTENT = b"a package"


@contextmanager
def server(status: Callable[[int], int]) -> Iterator[str]:
    """Answer the n-th request with ``status(n)``; 0 closes the connection without an answer."""
    numbers = iter(range(1_000_000))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer = status(next(numbers))
            self.close_connection = not answer
            if answer:
                self.send_response(answer)
                for name, value in SAID.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(CONTENT)))
                self.end_headers()
                self.wfile.write(CONTENT)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def load(url: str, budget_ms: float = 60_000) -> OpenLoop:
    return OpenLoop(url, [b'{"device": "d"}'], budget_ms, lambda _: RATE)


def test_it_sends_at_its_rate() -> None:
    with server(lambda _: 200) as url:
        sent = load(url)
        sent.run(SECONDS)

    # a Poisson count is within five deviations of its mean
    assert abs(len(sent.replies) - RATE * SECONDS) < 5 * math.sqrt(RATE * SECONDS)
    assert {reply.outcome for reply in sent.replies} == {"in-time"}
    assert all(0 <= reply.due_s < SECONDS for reply in sent.replies)


@pytest.mark.parametrize(
    ("status", "outcome", "retried"),
    [
        (204, "in-time", False),
        (429, "refused", False),
        (422, "refused", False),
        (504, "late", False),
        (500, "failed", True),
        (503, "failed", True),
        (0, "failed", True),
    ],
)
def test_outcomes(status: int, outcome: str, retried: bool) -> None:
    with server(lambda _: status) as url:
        sent = load(url)
        sent.run(0.1)

    assert {(reply.outcome, reply.retried, reply.status) for reply in sent.replies} == {(outcome, retried, status)}


def test_what_an_answer_says_is_read_and_shown() -> None:
    seen: list[tuple[int, str, bytes]] = []
    with server(lambda _: 200) as url:
        sent = OpenLoop(
            url,
            [b"{}"],
            60_000,
            lambda _: RATE,
            inspect=lambda status, headers, content: seen.append((status, headers["duet-version"], content)),
        )
        sent.run(0.1)

    assert len(seen) == len(sent.replies) > 0
    assert set(seen) == {(200, "ab", CONTENT)}
    assert {(reply.server_ms, reply.predicted_ms) for reply in sent.replies} == {(1.5, 2.25)}


def test_an_answer_after_the_budget_is_late() -> None:
    with server(lambda _: 200) as url:
        sent = load(url, budget_ms=0.001)
        sent.run(0.1)

    assert {reply.outcome for reply in sent.replies} == {"late"}


def test_one_retry_mends_what_was_lost_once() -> None:
    with server(lambda number: 503 if number == 0 else 200) as url:
        sent = load(url)
        sent.run(0.2)

    assert {reply.outcome for reply in sent.replies} == {"in-time"}
    assert sum(reply.retried for reply in sent.replies) == 1


def test_it_stops_when_told() -> None:
    arrived = threading.Event()
    with server(lambda _: arrived.set() or 200) as url:
        sent = load(url)
        sending = threading.Thread(target=sent.run)
        sending.start()
        arrived.wait(30)
        sent.stop()
        sending.join(30)

        assert not sending.is_alive()


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 2), (0.75, 3), (0.76, 4), (1.0, 4)])
def test_quantiles(share: float, expected: float) -> None:
    assert quantile([4, 2, 1, 3], share) == expected


def test_a_quantile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(quantile([], 0.5))
