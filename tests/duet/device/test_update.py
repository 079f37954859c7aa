"""What an update reports of the cloud's headers, whatever stands in them."""

import pytest

from duet.device.cloud import Answer
from duet.device.update import report, server_timing


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("queue;dur=0.5, encode;dur=1", {"queue": 0.5, "encode": 1.0}),
        ('cache;desc="hit";dur="2.5"', {"cache": 2.5}),
        ("", {}),
        ("queue", {}),
        ("queue;dur=, encode;dur=fast, ;dur=1, compose;dur=nan, a;dur=inf", {}),
        (";;;=,,=;", {}),
    ],
    ids=["stages", "description", "nothing", "no duration", "malformed", "noise"],
)
def test_server_timing_gives_the_durations_it_understands(text, stages):
    assert server_timing(text) == stages


def test_headers_that_are_not_numbers_are_left_out():
    headers = {"duet-predicted-ms": "soon", "duet-server-ms": "nan", "duet-network-ms": "7"}

    update = report([Answer(200, headers, b"", bytes_up=1, bytes_down=2)])

    assert (update.predicted_ms, update.server_ms, update.network_ms, update.plan) == (None, None, 7.0, None)


def test_the_bytes_of_all_answers_count():
    update = report([Answer(200, {}, b"old", 10, 20), Answer(200, {}, b"package", 30, 40, attempts=2)])

    assert (update.bytes_up, update.bytes_down, update.package_bytes, update.attempts) == (40, 60, 7, 3)
