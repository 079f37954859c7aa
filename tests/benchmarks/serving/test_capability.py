"""The load that a stream was is its rate, of what the server could do at the pace that its cores had."""

from benchmarks.serving.capability import loads_during

LOADS = (50, 80, 100, 120, 150, 200)


def at(pace_us: float) -> float:
    return 100_000 / pace_us


def test_a_stream_is_more_of_a_load_where_the_cores_are_slower() -> None:
    assert loads_during(500, [100.0, 100.0, 160.0, 200.0, 400.0], at, LOADS) == [50, 50, 80, 100, 200]


def test_the_nearest_load_is_told() -> None:
    assert loads_during(640, [100.0], at, LOADS) == [50]
    assert loads_during(660, [100.0], at, LOADS) == [80]
    assert loads_during(9000, [100.0], at, LOADS) == [200]


def test_a_quarter_after_a_slower_one_is_under_the_load_of_that() -> None:
    assert loads_during(500, [100.0, 200.0, 100.0, 100.0], at, LOADS) == [50, 100, 100, 50]
