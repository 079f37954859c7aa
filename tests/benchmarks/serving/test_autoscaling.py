"""What the benchmark of autoscaling says follows from what its requests met."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from ray.serve.schema import ServeDeploySchema

from app.builder import build_app as build_product
from benchmarks.serving.autoscaling import (
    Course,
    Phases,
    Round,
    Second,
    _parser,
    claims,
    plot,
    seconds_until_inside,
    serve_config,
    summarize,
)
from benchmarks.serving.open_loop import OpenLoop, Reply
from benchmarks.serving.paced import PacedGenerator, PacedGeneratorReplica, PacedSettings, build_app
from deployments.parameter_generator import ParameterGenerator
from duet.evaluation.provenance import provenance
from duet.protocol.representation import Representation
from duet.registry import PublishedVersion
from tests.app.test_builder import deployments_of
from tests.published_version import write_version

PHASES = Phases(rate=10, factor=3, step_s=10, drop_s=30, end_s=40)
GOOD = Second(0, 10, 10, 0, 0, 0, 0, 50.0, 60.0, 350.0, 340.0, 1, 0, "a machine", "c")


def history(bad: set[int]) -> list[Second]:
    return [
        replace(GOOD, second=second, in_time=5 if second in bad else 10, late=5 if second in bad else 0)
        for second in range(40)
    ]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [(set(), 0), ({5}, 0), ({10, 11, 12}, 3), ({10, 20}, 11), (set(range(10, 30)), math.inf), ({35}, 0)],
)
def test_it_is_inside_the_budget_again_when_it_stays_there(bad: set[int], expected: float) -> None:
    assert seconds_until_inside(history(bad), PHASES) == expected


def test_requests_are_counted_in_the_second_in_which_they_were_due() -> None:
    replies = [
        Reply(0.2, 100, "in-time", 200),
        Reply(0.9, 500, "late", 200),
        Reply(1.0, 3, "refused", 429),
        Reply(1.5, 900, "failed", 503, retried=True),
    ]

    seconds = summarize(replies, [(0.0, 1), (1.5, 2)], PHASES, 400, number=3)

    known = provenance()
    origin = (3, known["hardware"], known["commit"])
    assert seconds[0] == Second(0, 2, 1, 1, 0, 0, 0, 100, 500, -100, -100, 1, *origin)
    assert (seconds[1].due, seconds[1].refused, seconds[1].failed, seconds[1].retried) == (2, 1, 1, 1)
    assert (seconds[1].replicas, seconds[2].due, len(seconds)) == (2, 0, 40)


IN_TIME, LATE = Reply(0.0, 9, "in-time", 200), Reply(0.0, 900, "late", 200)


def watched(course: Course, seen: list[tuple[float, int, Reply]]) -> float:
    """Show a course replicas and what all requests of the last second met; return when it says that it is over."""
    replies: list[Reply] = []
    for now_s, running, met in seen:
        replies += [met._replace(due_s=now_s - 0.1)]
        if course.has_seen(now_s, running, replies):
            return now_s
    return math.inf


def test_a_hasty_course_ends_step_and_rest_when_replicas_have_followed_and_all_is_in_time_again() -> None:
    late_until, scaled, gone = 14, 12, 25
    seen = [
        (float(now), 2 if scaled <= now < gone else 1, LATE if 10 <= now <= late_until else IN_TIME)
        for now in range(40)
    ]
    course = Course(PHASES, is_hasty=True)

    ended_s = watched(course, seen)

    # five seconds after the last late one, and after that when the second replica has gone
    assert (course.phases.drop_s, course.phases.end_s, ended_s) == (late_until + 5, gone, gone)
    assert (course.at(15), course.at(20)) == (30, 10)
    assert watched(Course(PHASES), seen) == math.inf


def test_a_hasty_course_in_which_nothing_happens_takes_its_time() -> None:
    course = Course(PHASES, is_hasty=True)

    assert watched(course, [(float(now), 1, IN_TIME) for now in range(50)]) == PHASES.end_s
    assert course.phases == PHASES


def test_every_claim_can_fail() -> None:
    def failing(bad: set[int], last: int, *replies: Reply, dropped: int = 0) -> int:
        seconds = [replace(second, replicas=last if second.second > 35 else 2) for second in history(bad)]
        load = OpenLoop("", [b""], 400, PHASES.at, replies=list(replies), dropped=dropped)
        return [not claim.holds for claim in claims([*good, Round(load, seconds, PHASES)])].index(True)

    first, *others = history(set())
    load = OpenLoop("", [b""], 400, PHASES.at, replies=[Reply(0.0, 9.0, "in-time", 200)])
    good = [Round(load, [replace(first, replicas=2), *others], PHASES)]
    assert all(claim.holds for claim in claims(good))
    assert failing(set(range(10, 30)), 1) == 0
    assert failing(set(), 2) == 1
    assert failing(set(), 1, Reply(0.0, 9.0, "in-time", 200, retried=True)) == 2
    assert failing(set(), 1, dropped=1) == 3


def test_the_load_steps_up_and_back() -> None:
    assert [PHASES.at(now_s) for now_s in (0, 9.9, 10, 29.9, 30)] == [10, 10, 30, 30, 10]


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    plot(history({11}), PHASES, 400, tmp_path / "plot.svg")

    drawn = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert drawn.count('<g id="axes_') == 3


def test_the_configuration_is_the_products_with_another_generator(tmp_path: Path) -> None:
    write_version(tmp_path)
    config = serve_config(_parser().parse_args([]), tmp_path, "tiny")
    (application,) = config["applications"]

    with pytest.warns(DeprecationWarning, match="metrics_interval_s"):
        ServeDeploySchema.model_validate(config)
    settings = PacedSettings.model_validate(application["args"])
    paced, product = deployments_of(build_app(settings)), deployments_of(build_product(settings))

    assert application["import_path"] == f"{build_app.__module__}:{build_app.__name__}"
    assert paced["ParameterGenerator"].func_or_class is PacedGeneratorReplica
    assert paced.keys() == product.keys()


def test_a_paced_generator_answers_in_the_right_form_after_the_cost(
    published: PublishedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept_s: list[float] = []
    monkeypatch.setattr("benchmarks.serving.paced.time.sleep", slept_s.append)
    generator = ParameterGenerator(published.folder.parents[1])
    paced = PacedGenerator(generator, batch_ms=3_000, device_ms=1_000)
    shapes = [record.representation for record in published.manifest.representations][:2]
    embeddings = embeddings_of(published, len(shapes) * 2)
    wanted: list[Representation] = shapes * 2

    bodies = paced.generate(embeddings, wanted, model="tiny", version="v1")

    assert slept_s == [pytest.approx(7, abs=2)]
    real = generator.generate(embeddings[:1], shapes[:1], model="tiny", version="v1")
    assert bodies[0] == bodies[2] == real[0]
    assert [len(body) for body in bodies] == [len(body) for body in bodies[:2]] * 2


def embeddings_of(published: PublishedVersion, count: int):
    import numpy as np

    from deployments.version_checks import golden_tensors

    return np.repeat(golden_tensors(published)["output.embedding"][:1], count, axis=0)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedVersion:
    return write_version(tmp_path_factory.mktemp("models"))
