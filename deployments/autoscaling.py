"""How many replicas a stage needs, from how long its batches wait and how loaded its workers are.

    pressure = max(p95 of the predicted wait / (share of the stage's budget), mean load / its limit)

More replicas when the pressure is above one, in proportion to it; one fewer when the rest would stay calm. The number
of ongoing requests says neither: a request may be a batch of one or of many, and a stage that keeps up may have both.

Ray Serve 2.60 calls ``PredictedWaitPolicy`` ten times a second in its controller, with what the replicas pushed every
``metrics_interval_s``; bounds and delays of ``autoscaling_config`` are applied around it. The class reaches the
controller by value, so this module imports nothing of ours.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

logger = logging.getLogger("ray.serve")

_STATE = "duet"
_QUANTILE = 0.95
_CALM_WAIT = 0.5
_CALM_LOAD = 0.8
_REMEMBERED_S = 1800.0
_STALE_PERIODS = 3


@dataclass(frozen=True)
class ScalingTargets:
    """What a stage is to stay within.

    Attributes:
        stage_budget_ms: How long the stage may take, waiting included.
        wait_share: Which part of that may be waiting before replicas are added.
        most_load: The mean load above which replicas are added, however short the wait; 1 is what a worker can do.
        calm_load: The load that the other replicas may reach when one is removed.
        most_growth: The largest factor of one decision; what a saturated stage measures says little beyond.
    """

    stage_budget_ms: float
    wait_share: float = 0.5
    most_load: float = 0.85
    calm_load: float = 0.6
    most_growth: float = 3.0

    def __post_init__(self) -> None:
        if not (self.stage_budget_ms > 0 and 0 < self.wait_share <= 1 and self.most_growth > 1):
            raise ValueError(f"Expected a budget > 0 ms, a share in (0, 1] and a growth > 1, got {self}.")
        if not 0 < self.calm_load < self.most_load <= 1:
            raise ValueError(f"Expected 0 < calm_load < most_load <= 1, got {self}.")


@dataclass(frozen=True)
class StageLoad:
    """What the replicas of a stage measured lately.

    Attributes:
        wait_ms: 95th percentile of the predicted wait, over replicas and time.
        mean: Mean of the load: which part of its time a worker needs in batches as large as they get.
    """

    wait_ms: float
    mean: float

    def pressure(self, targets: ScalingTargets) -> float:
        """How far the stage is beyond what is good; 1 is the limit."""
        return max(self.wait_ms / (targets.wait_share * targets.stage_budget_ms), self.mean / targets.most_load)


@dataclass(frozen=True)
class TooFew:
    """A number of replicas that was not enough, and the load that they had together."""

    replicas: int
    load: float


def desired_replicas(load: StageLoad, replicas: int, targets: ScalingTargets, too_few: TooFew | None = None) -> int:
    """Decide for a stage that has settled.

    Args:
        load: What it measured.
        replicas: How many measured it, at least one.
        targets: What it is to stay within.
        too_few: What has turned out not to be enough; nobody goes back to it before the load is clearly smaller.

    Returns:
        At least one, and at most ``most_growth`` times what there is.
    """
    pressure = load.pressure(targets)
    if pressure > 1:
        return max(replicas + 1, math.ceil(replicas * min(pressure, targets.most_growth)))
    total = load.mean * replicas
    fewer = replicas - 1
    is_calm = (
        fewer > 0
        and total <= targets.calm_load * fewer
        and load.wait_ms <= _CALM_WAIT * targets.wait_share * targets.stage_budget_ms
    )
    is_known_as_too_few = too_few is not None and fewer <= too_few.replicas and total >= _CALM_LOAD * too_few.load
    return fewer if is_calm and not is_known_as_too_few else replicas


@dataclass(frozen=True)
class _State:
    """What a policy remembers between two calls.

    Attributes:
        replicas: How many there were.
        since_s: Since when.
        target: How many there were to be.
        wish: The load with which more were asked for last.
        too_few: What has turned out not to be enough.
        learnt_s: When it did.
    """

    replicas: int
    since_s: float
    target: int
    wish: TooFew | None = None
    too_few: TooFew | None = None
    learnt_s: float = -math.inf


class PredictedWaitPolicy:
    """An autoscaling policy of Ray Serve; ``policy_kwargs`` are the fields of ``ScalingTargets``.

    Leave ``upscaling_factor`` and ``downscaling_factor`` unset: they would multiply what is decided here.
    """

    def __init__(self, **targets: float) -> None:
        """Take the targets.

        Raises:
            ValueError: If they contradict each other.
        """
        self._targets = ScalingTargets(**targets)
        self._has_warned = False

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Decide on the number of replicas.

        Args:
            ctx: Ray's ``AutoscalingContext``.

        Returns:
            The number and what to remember.
        """
        state = _updated(ctx.policy_state.get(_STATE), ctx)
        load = self._load(ctx, state.since_s)
        replicas, target = ctx.current_num_replicas, ctx.target_num_replicas
        if load is None:
            wanted = self._by_queue_length(ctx) if self._is_silent(ctx, state) else target
        elif replicas == target:
            wanted = desired_replicas(load, replicas, self._targets, state.too_few)
        elif replicas < target and desired_replicas(load, replicas, self._targets) < replicas:
            wanted = replicas  # the rush was over before the new ones had started
        else:
            wanted = target  # while replicas start or stop, nothing that is measured describes what is coming
        if load is not None and wanted > target:
            state = replace(state, wish=TooFew(replicas, load.mean * replicas))
        bounded = max(ctx.capacity_adjusted_min_replicas, min(ctx.capacity_adjusted_max_replicas, wanted))
        return bounded, {_STATE: state}

    def _load(self, ctx: Any, since_s: float) -> StageLoad | None:
        # a report sums up the time before it, which may have been that of other replicas
        since_s += ctx.config.metrics_interval_s
        since_s = max(since_s, ctx.current_time - _STALE_PERIODS * ctx.config.look_back_period_s)
        waits_ms = sorted(_values(ctx.raw_metrics, "predicted_wait_ms", since_s))
        loads = list(_values(ctx.raw_metrics, "load_fraction", since_s))
        if not waits_ms or not loads:
            return None
        return StageLoad(waits_ms[math.ceil(_QUANTILE * len(waits_ms)) - 1], sum(loads) / len(loads))

    def _is_silent(self, ctx: Any, state: _State) -> bool:
        """Whether the replicas had time to report and did not."""
        return bool(ctx.current_time - state.since_s > _STALE_PERIODS * ctx.config.look_back_period_s)

    def _by_queue_length(self, ctx: Any) -> int:
        if not self._has_warned:
            logger.warning(
                "The replicas of %s report no predicted wait: scaled on the number of ongoing requests.",
                ctx.deployment_name,
            )
            self._has_warned = True
        per_replica: float = ctx.config.target_ongoing_requests
        return math.ceil(float(ctx.total_num_requests) / per_replica)


def _updated(state: _State | None, ctx: Any) -> _State:
    """Note what has changed since the last call."""
    replicas, target, now_s = ctx.current_num_replicas, ctx.target_num_replicas, ctx.current_time
    if state is None:
        return _State(replicas, now_s, target)
    if target > state.target and state.wish is not None:
        state = replace(state, too_few=state.wish, learnt_s=now_s)
    if now_s - state.learnt_s > _REMEMBERED_S:
        state = replace(state, too_few=None)
    if replicas != state.replicas:
        state = replace(state, replicas=replicas, since_s=now_s)
    return replace(state, target=target)


def _values(metrics: Mapping[str, Mapping[Any, Iterable[Any]]], name: str, since_s: float) -> Iterable[float]:
    for series in metrics.get(name, {}).values():
        yield from (sample.value for sample in series if sample.timestamp > since_s)
