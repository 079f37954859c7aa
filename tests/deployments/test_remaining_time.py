"""What is left of the time of a batch travels with it, and a stage computes nothing that nobody waits for."""

import itertools
import math
import pickle
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.orders import Answered
from deployments.replicas import ComposerReplica, EncoderReplica, ParameterGeneratorReplica
from duet.protocol.errors import DeadlineExceeded
from duet.protocol.representation import Dtype, Form, Representation
from tests.deployments.test_pipeline import order, split
from tests.published_version import ITEM_IDS

HALF = Representation(Form.FACTORS, Dtype.FLOAT16, 2)
V1 = {"model": "tiny", "version": "v1"}


async def test_every_stage_takes_its_time_from_what_is_left(models: Path) -> None:
    generator = ParameterGeneratorReplica(str(models), model="tiny", accelerator="cpu", intra_op_threads=1)
    composer = ComposerReplica(str(models), model="tiny")

    embedded = await EncoderReplica(str(models), model="tiny", intra_op_threads=1).encode(
        [[ITEM_IDS[0]]], **V1, remaining_ms=60_000
    )
    generated = await generator.generate(embedded, [HALF], **V1)
    composed = await composer.compose(generated, [HALF], tags=[bytes(8)], answers=["package"], **V1)

    left_ms = [60_000, embedded.remaining_ms, generated.remaining_ms, composed.remaining_ms]
    assert left_ms == sorted(set(left_ms), reverse=True)
    spent_ms = [before - after for before, after in itertools.pairwise(left_ms)]
    times = composed.times
    assert all(
        spent >= computed
        for spent, computed in zip(spent_ms, (times.encode_ms, times.generate_ms, times.compose_ms), strict=True)
    )


async def test_a_stage_computes_nothing_when_no_time_is_left(models: Path) -> None:
    encoder = EncoderReplica(str(models), model="tiny", intra_op_threads=1)
    generator = ParameterGeneratorReplica(str(models), model="tiny", accelerator="cpu", intra_op_threads=1)
    embedded = await encoder.encode([[ITEM_IDS[0]]], **V1)

    assert embedded.remaining_ms == math.inf
    with pytest.raises(DeadlineExceeded):
        await encoder.encode([[ITEM_IDS[0]]], **V1, remaining_ms=0)
    with pytest.raises(DeadlineExceeded):
        await generator.generate(replace(embedded, remaining_ms=-5), [HALF], **V1)


async def test_a_batch_goes_on_as_long_as_one_of_it_has_time(models: Path) -> None:
    pipeline, now_s = split(models), time.monotonic()

    outcomes = await pipeline.run([replace(order(0), deadline_s=now_s - 1), replace(order(1), deadline_s=now_s + 60)])

    assert all(isinstance(outcome, Answered) for outcome in outcomes)
    with pytest.raises(DeadlineExceeded):
        await pipeline.run([replace(order(number), deadline_s=now_s - 1) for number in range(2)])


def test_the_refusal_crosses_processes() -> None:
    error = DeadlineExceeded(budget_ms=5, elapsed_ms=7)

    assert str(pickle.loads(pickle.dumps(error))) == str(error)
