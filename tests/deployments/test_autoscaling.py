"""The policy: monotone, bounded, calm under constant load; seen through Ray's own delays and bounds."""

import itertools
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.autoscaling import PredictedWaitPolicy, ScalingTargets, StageLoad, TooFew, desired_replicas

TARGETS = ScalingTargets(stage_budget_ms=20)  # so that 10 ms of waiting are the limit
LOOK_BACK_S = 3.0
DOWN_S, UP_S = 10.0, 2.0

waits = st.floats(0, 1e6)
fractions = st.floats(0, 1)
counts = st.integers(1, 200)
memories = st.none() | st.builds(TooFew, counts, st.floats(0, 200))


@given(waits, fractions, counts, memories)
def test_a_decision_is_bounded(wait_ms: float, busy: float, replicas: int, too_few: TooFew | None) -> None:
    wanted = desired_replicas(StageLoad(wait_ms, busy), replicas, TARGETS, too_few)

    assert max(1, replicas - 1) <= wanted <= max(replicas + 1, math.ceil(3 * replicas))


@given(waits, waits, fractions, fractions, counts, memories)
def test_more_load_never_means_fewer_replicas(
    wait_ms: float, more_ms: float, busy: float, busier: float, replicas: int, too_few: TooFew | None
) -> None:
    less = StageLoad(min(wait_ms, more_ms), min(busy, busier))
    more = StageLoad(max(wait_ms, more_ms), max(busy, busier))

    assert desired_replicas(less, replicas, TARGETS, too_few) <= desired_replicas(more, replicas, TARGETS, too_few)


@pytest.mark.parametrize(
    ("wait_ms", "busy", "replicas", "wanted"),
    [
        (10.0, 0.5, 2, 2),  # at the limit
        (10.1, 0.5, 2, 3),
        (20.0, 0.5, 2, 4),  # in proportion
        (500.0, 0.5, 2, 6),  # but not more than threefold
        (0.0, 0.86, 2, 3),  # saturated, though no batch waits long
        (0.0, 0.3, 2, 1),  # the other one would be 0.6 busy
        (0.0, 0.31, 2, 2),
        (5.1, 0.1, 2, 2),  # idle but bursty: not calm
        (0.0, 0.0, 1, 1),
    ],
)
def test_decisions(wait_ms: float, busy: float, replicas: int, wanted: int) -> None:
    assert desired_replicas(StageLoad(wait_ms, busy), replicas, TARGETS) == wanted


def test_what_was_too_few_is_not_tried_again_at_the_same_load() -> None:
    calm = StageLoad(0.0, 0.2)  # four such replicas are a load of 0.8

    assert desired_replicas(calm, 4, TARGETS, TooFew(3, 0.8)) == 4
    assert desired_replicas(calm, 4, TARGETS, TooFew(2, 0.8)) == 3
    assert desired_replicas(calm, 4, TARGETS, TooFew(3, 1.1)) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"stage_budget_ms": 0},
        {"stage_budget_ms": 20, "wait_share": 1.5},
        {"stage_budget_ms": 20, "calm_load": 0.9},
        {"stage_budget_ms": 20, "most_load": 1.1},
        {"stage_budget_ms": 20, "most_growth": 1},
    ],
)
def test_targets_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        PredictedWaitPolicy(**wrong)


@dataclass
class Stage:
    """A stage in fluid approximation: what its replicas measure at a load, in replicas that are always busy."""

    load: Callable[[float], float]
    batch_ms: float = 8.0
    in_flight: int = 8
    start_s: float = 6.0
    stagger_s: float = 0.0
    reports: bool = True
    silent_below: float = 0.0

    def wait_ms(self, replicas: int, now_s: float) -> float:
        share = self.load(now_s) / replicas
        if share < self.silent_below:
            return 0.0  # as a percentile is, until enough batches meet a busy worker
        most_ms = self.in_flight * self.batch_ms
        return most_ms if share >= 1 else min(most_ms, self.batch_ms * share / (1 - share))

    def busy(self, replicas: int, now_s: float) -> float:
        return min(1.0, self.load(now_s) / replicas)


def simulate(stage: Stage, *, seconds: float, least: int = 1, most: int = 20) -> list[tuple[float, int]]:
    """Run the policy inside Ray's own wrapper; list the replicas that run at each tenth of a second."""
    config = AutoscalingConfig.model_construct(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=2.0,
        metrics_interval_s=1.0,
        look_back_period_s=LOOK_BACK_S,
        smoothing_factor=1.0,
        upscaling_factor=None,
        downscaling_factor=None,
        upscale_smoothing_factor=None,
        downscale_smoothing_factor=None,
        upscale_delay_s=UP_S,
        downscale_delay_s=DOWN_S,
        downscale_to_zero_delay_s=None,
    )
    policy = _apply_autoscaling_config(PredictedWaitPolicy(stage_budget_ms=20))
    state: dict[str, Any] = {}
    target = running = least
    starting: list[float] = []
    waits_ms: list[SimpleNamespace] = []
    busy: list[SimpleNamespace] = []
    history = []
    reported = least
    for tick in range(int(seconds * 10)):
        now_s = tick / 10
        running = min(target, running + sum(start_s <= now_s for start_s in starting))
        starting = [start_s for start_s in starting if start_s > now_s]
        if tick % 10 == 0 and stage.reports:
            # a report is of the second before it
            waits_ms.append(SimpleNamespace(timestamp=now_s, value=stage.wait_ms(reported, now_s)))
            busy.append(SimpleNamespace(timestamp=now_s, value=stage.busy(reported, now_s)))
            reported = running
        window = {"predicted_wait_ms": {"r": waits_ms[-3:]}, "load_fraction": {"r": busy[-3:]}}
        context = context_of(config, state, now_s, running, target, window, stage.load(now_s) * 2)
        # Ray's delays read the clock of the wall unless told
        wanted, state = at_time(now_s, policy, context)
        bounded = max(least, min(most, wanted))
        starting += [now_s + stage.start_s + stage.stagger_s * place for place in range(bounded - target)]
        target = bounded
        running = min(running, target)
        history.append((now_s, running))
    return history


def context_of(
    config: AutoscalingConfig, state: dict, now_s: float, running: int, target: int, window: dict, requests: float
) -> AutoscalingContext:
    return AutoscalingContext(
        deployment_id=None,
        deployment_name="ParameterGenerator",
        app_name="duet",
        current_num_replicas=running,
        target_num_replicas=target,
        running_replicas=[],
        total_num_requests=requests,
        total_queued_requests=0.0,
        aggregated_metrics={},
        raw_metrics=window if window["load_fraction"]["r"] else {},
        capacity_adjusted_min_replicas=config.min_replicas,
        capacity_adjusted_max_replicas=config.max_replicas,
        policy_state=state,
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now_s,
        config=config,
    )


def at_time(now_s: float, policy: Callable, context: AutoscalingContext) -> tuple[int, dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.serve.autoscaling_policy.time.time", lambda: now_s)
        return policy(context)


def changes(history: list[tuple[float, int]]) -> Iterator[tuple[float, int]]:
    for (_, before), (now_s, after) in itertools.pairwise(history):
        if before != after:
            yield now_s, after - before


@settings(max_examples=30, deadline=None)
@given(load=st.floats(0.05, 12), batch_ms=st.floats(0.5, 40), in_flight=st.integers(1, 16))
def test_replicas_settle_under_constant_load(load: float, batch_ms: float, in_flight: int) -> None:
    history = simulate(Stage(lambda _: load, batch_ms, in_flight), seconds=420)

    steps = list(changes(history))
    reversals = sum(first * second < 0 for (_, first), (_, second) in itertools.pairwise(steps))
    # one overshoot, one step too far down, and never again
    assert reversals <= 2
    assert not [step for step in steps if step[0] > 360]
    # and what it settles at is enough
    assert history[-1][1] >= min(load / 0.86, 20)


def test_a_step_to_three_times_the_load_is_answered_in_one_start() -> None:
    history = simulate(Stage(lambda now_s: 0.5 if now_s < 60 else 1.5), seconds=90)

    before = [replicas for now_s, replicas in history if now_s < 60]
    assert set(before) == {1}
    assert next(now_s for now_s, replicas in history if replicas >= 3) < 60 + UP_S + LOOK_BACK_S + 6


def test_a_wait_that_shows_suddenly_is_not_provoked_again_and_again() -> None:
    # one replica at 0.4 lets batches wait; two at 0.2 do not, and look as if one were enough
    stage = Stage(lambda _: 0.4, batch_ms=30, silent_below=0.3)

    steps = list(changes(simulate(stage, seconds=4000)))

    assert steps[0][1] == 1
    # tried once more after the half hour that it is remembered, and undone at once
    assert [step for _, step in steps[1:]] == [-1, 1] * (len(steps[1:]) // 2)
    assert next(now_s for now_s, _ in steps[1:]) > 1800
    assert len(steps) <= 5


@pytest.mark.parametrize("stagger_s", [0.0, 10.0], ids=["at-once", "one-by-one"])
def test_replicas_that_are_starting_are_counted(stagger_s: float) -> None:
    history = simulate(Stage(lambda _: 2.2, batch_ms=3, start_s=6.5, stagger_s=stagger_s), seconds=90)

    # three have a load of 0.73 each and a short wait: nobody asks for more while they start or because of what was
    assert max(replicas for _, replicas in history) == 3


def test_replicas_leave_one_at_a_time_and_each_after_the_whole_delay() -> None:
    history = simulate(Stage(lambda now_s: 5.0 if now_s < 120 else 0.2), seconds=300)

    down = [(now_s, step) for now_s, step in changes(history) if now_s > 120]
    assert history[-1][1] == 1
    assert all(step == -1 for _, step in down)
    assert all(later - earlier >= DOWN_S for (earlier, _), (later, _) in itertools.pairwise(down))


def test_bounds_hold() -> None:
    assert {replicas for _, replicas in simulate(Stage(lambda _: 50.0), seconds=60, least=2, most=5)} <= {2, 3, 4, 5}
    assert {replicas for _, replicas in simulate(Stage(lambda _: 0.0), seconds=60, least=2, most=5)} == {2}


def test_a_rush_that_ends_before_its_replicas_have_started_is_called_off() -> None:
    history = simulate(Stage(lambda now_s: 2.4 if now_s < 40 else 0.1, start_s=60), seconds=90, least=2)

    assert max(replicas for _, replicas in history) == 2


def test_without_reports_the_queue_length_decides_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    serve_logger = logging.getLogger("ray.serve")
    serve_logger.addHandler(caplog.handler)
    try:
        history = simulate(Stage(lambda _: 4.0, reports=False), seconds=60)  # eight requests, two for each replica
    finally:
        serve_logger.removeHandler(caplog.handler)

    assert history[-1][1] == 4
    assert [record.message for record in caplog.records].count(
        "The replicas of ParameterGenerator report no predicted wait: scaled on the number of ongoing requests."
    ) == 1
