"""What a stage replica says of a batch names the requests in it, of which it knows what came with the batch."""

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from deployments.logs import JsonFormatter
from deployments.pipeline import SplitPipeline
from deployments.replicas import ComposerReplica, EncoderReplica, ParameterGeneratorReplica
from duet.protocol.errors import VersionNotReady
from tests.deployments.test_pipeline import DyingComposer, InProcessHandle, QuietStage, order


class Lines(logging.Handler):
    """What is said, spelt where and when it is said."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.said: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(json.loads(self.format(record)))


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    handler, logger = Lines(), logging.getLogger("deployments")
    logger.addHandler(handler)
    yield handler.said
    logger.removeHandler(handler)


class Talking:
    """A stage that says something, then does what it is told to."""

    def __init__(self, stage: object, failure: Exception | None) -> None:
        self._stage, self._failure = stage, failure

    def _say(self) -> None:
        logging.getLogger("deployments.talking").warning("here")
        if self._failure is not None:
            raise self._failure

    def encode(self, *arguments: object, **rest: object) -> object:
        self._say()
        return self._stage.encode(*arguments, **rest)

    def generate(self, *arguments: object, **rest: object) -> object:
        self._say()
        return self._stage.generate(*arguments, **rest)

    def compose(self, *arguments: object, **rest: object) -> object:
        self._say()
        return self._stage.compose(*arguments, **rest)


def talking(models: Path, place: int, failure: Exception | None = None) -> SplitPipeline:
    """All stages, of which one talks."""
    replicas = (
        EncoderReplica(str(models), model="tiny", intra_op_threads=1),
        ParameterGeneratorReplica(str(models), model="tiny", accelerator="cpu", intra_op_threads=1),
        ComposerReplica(str(models), model="tiny"),
    )
    replicas[place]._stage = Talking(replicas[place]._stage, failure)
    return SplitPipeline(*map(InProcessHandle, replicas))


ORDERS = [replace(order(number), request_id=f"r-{number}") for number in range(3)]


@pytest.mark.parametrize("place", range(3), ids=["encoder", "generator", "composer"])
async def test_whatever_a_stage_says_of_a_batch_names_its_requests(
    models: Path, lines: list[dict[str, Any]], place: int
) -> None:
    await talking(models, place).run(ORDERS)

    (said,) = lines
    assert (said["message"], said["request_ids"]) == ("here", ["r-0", "r-1", "r-2"])


async def test_only_those_are_named_who_are_computed(models: Path, lines: list[dict[str, Any]]) -> None:
    far_s = asyncio.get_running_loop().time() + 60
    orders = [replace(each, deadline_s=far_s if place else 0.0) for place, each in enumerate(ORDERS)]

    await talking(models, 1).run(orders)

    (said,) = lines
    assert said["request_ids"] == ["r-1", "r-2"]


@pytest.mark.parametrize(
    ("failure", "level", "has_traceback"),
    [
        (RuntimeError("the accelerator is lost"), "ERROR", True),
        (VersionNotReady(model="m", version="v"), "WARNING", False),
    ],
    ids=["fault", "refusal"],
)
async def test_a_stage_says_of_which_requests_a_batch_failed(
    models: Path, lines: list[dict[str, Any]], failure: Exception, level: str, has_traceback: bool
) -> None:
    pipeline = talking(models, 1, failure)

    with pytest.raises(type(failure)):
        await pipeline._run(ORDERS)

    told = lines[1]
    assert (told["logger"], told["level"], "error" in told) == ("deployments.replicas", level, has_traceback)
    assert told["request_ids"] == ["r-0", "r-1", "r-2"]


async def test_the_gateway_says_of_which_requests_a_batch_met_an_outage(lines: list[dict[str, Any]]) -> None:
    quiet = InProcessHandle(QuietStage())

    await SplitPipeline(quiet, quiet, InProcessHandle(DyingComposer(ActorDiedError()))).run(ORDERS)

    (told,) = lines
    assert (told["logger"], told["request_ids"]) == ("deployments.pipeline", ["r-0", "r-1", "r-2"])
