"""Stage times are spelt as the ``Server-Timing`` header."""

from deployments.telemetry import StageTimes, Stopwatch


def test_server_timing_splits_the_time_of_a_request() -> None:
    times = StageTimes(encode_ms=1.234, generate_ms=5, compose_ms=0.5).queued(2.0)

    assert times.server_timing() == "queue;dur=2.00, encode;dur=1.23, generate;dur=5.00, compose;dur=0.50"


def test_a_stopwatch_measures_its_block() -> None:
    with Stopwatch() as watch:
        total = sum(range(1000))

    assert total == 499500
    assert 0 < watch.elapsed_ms < 1000
