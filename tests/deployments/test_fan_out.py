"""A gateway has as many batches on their way as keep the replicas busy that it feeds."""

import asyncio
import logging

import pytest

from deployments.fan_out import FanOut
from tests.deployments.virtual_time import pass_seconds, run_virtually


class Fleet:
    """So many replicas of every deployment."""

    def __init__(self, gateways: int, *stages: int) -> None:
        self.gateways, self.stages = gateways, list(stages)
        self.is_lost = False

    def fan_out(self, *, least: int = 2) -> FanOut:
        async def count_gateways() -> int:
            if self.is_lost:
                raise RuntimeError("nobody can be counted")
            return self.gateways

        def counting(stage: int):
            async def count() -> int:
                return self.stages[stage]

            return count

        return FanOut([counting(stage) for stage in range(len(self.stages))], count_gateways, least=least)


@pytest.mark.parametrize(
    ("gateways", "stages", "least", "expected"),
    [
        (1, (1, 1, 1), 2, 2),
        (1, (1, 1, 1), 4, 4),
        (1, (2, 4, 1), 2, 5),
        (2, (2, 4, 1), 2, 3),
        (2, (1, 5, 1), 2, 4),
        (0, (1, 3, 1), 2, 4),  # this gateway runs, whatever was counted
        (1, (0, 0, 0), 2, 2),
    ],
)
async def test_one_batch_for_each_replica_that_it_feeds_and_one_on_its_way(
    gateways: int, stages: tuple[int, ...], least: int, expected: int
) -> None:
    assert await Fleet(gateways, *stages).fan_out(least=least).batches() == expected


def test_it_follows_what_it_counts_and_says_only_what_has_changed() -> None:
    fleet, said = Fleet(1, 1, 1, 1), list[int]()

    async def scenario() -> None:
        fan_out = fleet.fan_out()
        fan_out.follow(said.append, every_s=2)
        for generators in (1, 3, 3, 2):
            fleet.stages[1] = generators
            await pass_seconds(2.5)
        await fan_out.stop()
        fleet.stages[1] = 9
        await pass_seconds(5)

    run_virtually(scenario())

    assert said == [4, 3]


def test_what_cannot_be_counted_changes_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    fleet, said = Fleet(1, 4), list[int]()

    async def scenario() -> None:
        fan_out = fleet.fan_out()
        fan_out.follow(said.append, every_s=1)
        await pass_seconds(0.5)
        fleet.is_lost = True
        await pass_seconds(5)
        fleet.is_lost, fleet.stages[0] = False, 2
        await pass_seconds(1)
        await fan_out.stop()

    with caplog.at_level(logging.ERROR):
        run_virtually(scenario())

    assert said == [5, 3]
    assert len(caplog.records) == 1


def test_a_count_that_never_ends_is_given_up() -> None:
    async def never() -> int:
        await asyncio.get_running_loop().create_future()
        return 0

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            await FanOut([never], never, least=2).batches()

    run_virtually(scenario())
