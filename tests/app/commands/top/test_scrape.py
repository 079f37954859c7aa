"""A scrape keeps our series by replica, without what Ray adds, and a server that cannot be read is told in one line."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from app.commands.top.scrape import Scraper, parse
from tests.app.commands.top.exposition import Replica


def test_series_are_kept_by_replica_with_our_labels_alone() -> None:
    one, other = Replica("a1"), Replica("b2")
    one.answer(3)
    other.answer(5)

    snapshot = parse([one.text(1010.0) + other.text(1011.0)])

    counted = {
        name: [(labels, value) for labels, value in series.named("requests_total")]
        for name, series in snapshot.gateways.items()
    }
    labels = {"model": "demo", "version": "v1", "rung": "plan"}
    assert counted == {"a1": [(labels, 3)], "b2": [(labels, 5)]}
    assert snapshot.gateways["b2"].read_s == 1011.0
    assert snapshot.replicas == {"Gateway": 2}


def test_a_replica_of_which_only_remains_are_left_is_no_gateway() -> None:
    text = "\n".join(line for line in Replica("gone").text(1.0).splitlines() if "read_timestamp" not in line)

    assert not parse([text]).gateways


def test_the_difference_of_a_replica_that_began_anew_is_all_it_has() -> None:
    before, after = Replica("a1", started_s=1000.0), Replica("a1", started_s=2000.0)
    before.answer(100)
    after.answer(3)
    earlier, later = parse([before.text(1010.0)]).gateways["a1"], parse([after.text(2010.0)]).gateways["a1"]

    assert [value for _, value in later.since(earlier).named("requests_total")] == [3]
    assert [value for _, value in earlier.since(earlier).named("requests_total")] == [0]


@pytest.fixture
def answers() -> dict[str, tuple[int, bytes]]:
    """What the server answers, by path."""
    return {}


@pytest.fixture
def url(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_server_says_where_its_metrics_are(url: str, answers: dict[str, tuple[int, bytes]]) -> None:
    answers["/metadata"] = (200, json.dumps({"metrics": [f"{url}/node-1", f"{url}/node-2"]}).encode())
    answers["/node-1"] = (200, Replica("a1").text(1.0).encode())
    answers["/node-2"] = (200, Replica("b2").text(1.0).encode())
    scraper = Scraper(url)

    assert set(scraper.scrape().gateways) == {"a1", "b2"}
    scraper.close()


def test_endpoints_that_are_named_are_read_without_asking(url: str, answers: dict[str, tuple[int, bytes]]) -> None:
    answers["/node-1"] = (200, Replica("a1").text(1.0).encode())
    scraper = Scraper("http://127.0.0.1:1", [f"{url}/node-1"])

    assert set(scraper.scrape().gateways) == {"a1"}
    scraper.close()


@pytest.mark.parametrize(
    ("path", "answer", "told"),
    [
        ("/metadata", (404, b""), "status 404"),
        ("/metadata", (200, b"<html>"), "something else"),
        ("/metadata", (200, b"[]"), "something else"),
        ("/metadata", (200, b'{"metrics": ["http://127.0.0.1:1/metrics"]}'), "--metrics"),
    ],
    ids=["no-such-page", "no-json", "no-metadata", "endpoint-out-of-reach"],
)
def test_what_cannot_be_read_is_told_with_a_remedy(
    url: str, answers: dict[str, tuple[int, bytes]], path: str, answer: tuple[int, bytes], told: str
) -> None:
    answers[path] = answer
    scraper = Scraper(url)

    with pytest.raises(ConnectionError, match=told) as failure:
        scraper.scrape()

    scraper.close()
    assert str(failure.value).startswith("Expected")
    assert "name" in str(failure.value).lower()
