"""Shapes are data: the ones of the file are sound, and mistakes in one's own are told."""

import pytest

from loadtest.shapes import Phase, Role, Shape, load_shapes


def test_the_file_has_every_shape_that_the_docs_promise():
    shapes = load_shapes()

    assert {"steady", "step", "spike", "compressed-day", "overload", "rollover", "replica-kill", "smoke"} <= set(shapes)
    for shape in shapes.values():
        assert shape.about
        assert any(phase.role is Role.MEASURED for phase in shape.phases)
        assert shape.load_at(0.0) >= 0


def test_the_spike_is_five_times_the_load_around_it_for_a_minute():
    spike = load_shapes()["spike"]
    before, during, after = spike.phases[1:]

    assert during.load == pytest.approx(5 * before.load) == pytest.approx(5 * after.load)
    assert during.seconds == 60
    assert during.role is Role.DISTURBED


def test_the_smoke_profile_takes_a_minute():
    assert load_shapes()["smoke"].seconds == 60


def test_load_is_constant_or_a_straight_line_and_nothing_after_the_end():
    shape = Shape(phases=(Phase(name="a", seconds=10, load=0.5), Phase(name="b", seconds=10, load=(1.0, 0.0))))

    assert [shape.load_at(now_s) for now_s in (0, 9.9, 10, 15, 20, 100)] == pytest.approx([0.5, 0.5, 1.0, 0.5, 0, 0])
    assert shape.seconds == 20
    assert shape.stretched(0.5).load_at(7.5) == pytest.approx(0.5)
    assert shape.stretched(0.5).seconds == 10


def test_an_event_happens_when_its_phase_begins():
    assert load_shapes()["rollover"].events == ((30.0, "rollover"),)
    assert load_shapes()["replica-kill"].events == ((30.0, "replica-kill"),)


@pytest.mark.parametrize(
    "text",
    [
        "steady: {phases: []}",
        "steady: {phases: [{name: a, seconds: 0, load: 1}]}",
        "steady: {phases: [{name: a, seconds: 1, load: -1}]}",
        "steady: {phases: [{name: a, seconds: 1, load: 1, rate: 3}]}",
        "steady: {phases: [{name: a, seconds: 1, load: 1, role: noise}]}",
        "[]",
        "{",
    ],
)
def test_a_mistake_in_a_file_is_told_with_the_file(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)

    with pytest.raises(ValueError, match=r"mine\.yaml"):
        load_shapes(path)
