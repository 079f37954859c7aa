"""What a request is told when many come at once is what happens to it, as long as the machine holds its speed."""

import asyncio
import random
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from deployments.batching import BatchLimits, DispatchWhenFreeBatcher
from deployments.room import Room
from duet.protocol.errors import Overloaded
from tests.deployments.virtual_time import now_s, pass_seconds, run_virtually

SHARE_MS = 50.0


class Stages(NamedTuple):
    """What a batch takes, and how large batches are where as many are answered as can be."""

    a_device_s: float
    a_batch_s: float
    batch: int

    @property
    def capacity_s(self) -> float:
        """Answers a second."""
        return self.batch / (self.batch * self.a_device_s + self.a_batch_s)


HEAVY = Stages(0.0006, 0.004, batch=28)
"""As many as fit into half of the time."""
LIGHT = Stages(0.00027, 0.0004, batch=64)


class Met(NamedTuple):
    """What a stream met, after its first half second."""

    answered_of_capacity: float
    refused: int
    late: int
    dishonesty_p95: float


def stream(of_capacity: float, stages: Stages = HEAVY, *, seconds: float = 4.0) -> Met:
    """Send a Poisson stream to a batcher behind a room, with stages that take what the line says."""
    dice = random.Random(0)
    answered: list[tuple[float, float]] = []
    refused = late = 0

    async def run(items: Sequence[object]) -> Sequence[object]:
        await pass_seconds(stages.a_device_s * len(items) + stages.a_batch_s)
        return items

    async def ask(room: Room, batcher: DispatchWhenFreeBatcher[object, object]) -> None:
        nonlocal refused, late
        came_s = now_s()
        if not room.has_room("normal"):
            refused += came_s > 0.5
            return
        room.enter()
        room.learn_share(SHARE_MS)
        told = batcher.forecast("k", inside=room.inside, offered_s=room.offered_s, places=room.places("normal"))
        try:
            if told.guarded_ms > SHARE_MS:
                raise Overloaded(retry_after_s=1.0)
            await batcher.submit(1, key="k", deadline_s=came_s + SHARE_MS / 1000, predicted_ms=told.predicted_ms)
        except Overloaded:
            refused += came_s > 0.5
        except TimeoutError:
            late += came_s > 0.5
        else:
            room.learn_answer()
            if came_s > 0.5:
                answered.append((told.predicted_ms, (now_s() - came_s) * 1000))
        finally:
            room.leave()

    async def scenario() -> None:
        room = Room(least=8, most=320, clock=now_s)
        batcher = DispatchWhenFreeBatcher[object, object](run, limits=BatchLimits(), clock=now_s)
        asked = []
        while now_s() < seconds:
            await pass_seconds(dice.expovariate(of_capacity * stages.capacity_s))
            asked.append(asyncio.ensure_future(ask(room, batcher)))
        await asyncio.gather(*asked)

    run_virtually(scenario())
    off = sorted(abs(took_ms - told_ms) / max(5.0, took_ms / 4) for told_ms, took_ms in answered)
    return Met(len(answered) / (seconds - 0.5) / stages.capacity_s, refused, late, off[int(0.95 * len(off))])


@pytest.mark.parametrize(("of_capacity", "most_off"), [(0.5, 0.5), (0.8, 0.7), (1.0, 0.6), (1.5, 0.1), (2.0, 0.1)])
def test_predictions_are_kept(of_capacity: float, most_off: float) -> None:
    assert stream(of_capacity).dishonesty_p95 < most_off


@pytest.mark.parametrize("of_capacity", [1.5, 2.0])
def test_a_server_that_is_offered_too_much_does_nearly_what_it_can(of_capacity: float) -> None:
    met = stream(of_capacity)

    assert met.answered_of_capacity > 0.83
    assert met.late < 0.01 * met.answered_of_capacity * HEAVY.capacity_s * 3.5


@pytest.mark.parametrize(("stages", "of_capacity"), [(HEAVY, 0.7), (LIGHT, 0.8)])
def test_nobody_is_refused_who_could_be_answered(stages: Stages, of_capacity: float) -> None:
    met = stream(of_capacity, stages)

    assert (met.refused, met.late) == (pytest.approx(0, abs=5), 0)
