"""Contenders share the stages, and a contender that gives something else than the stages is found out."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.peers.contenders import LISTS, PLAIN_WIRE
from benchmarks.peers.parity import first_difference
from benchmarks.serving.bodies import bodies
from benchmarks.serving.contenders import plain
from benchmarks.serving.contenders.job import Job
from benchmarks.serving.contenders.stages import Stages
from duet.protocol.errors import CorruptPackage
from duet.protocol.package import LayerValues, ParameterPackage, encode_body, seal
from tests.published_version import TABLE, write_version

COUNT = 8


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_version(folder)
    return folder


@pytest.fixture(scope="module")
def asked(models: Path) -> list[str]:
    return bodies(models, "tiny", budget_ms=10_000)[:COUNT]


@pytest.fixture(scope="module")
def packages(models: Path, asked: list[str]) -> list[bytes]:
    job = Job.of(models, "tiny")
    read = [job.read(body.encode()) for body in asked]
    return Stages(models, job).compute([request.sample for request, _ in read], [tag for _, tag in read])


def moved(package: bytes, by: float) -> bytes:
    """The package with one number moved by a part of the tolerance."""
    decoded = ParameterPackage.decode(package, TABLE)
    values = decoded.values()
    hidden = vars(values["hidden"])
    shift = hidden["shift"].copy()
    shift[0] += np.float32(by)
    body = encode_body(values | {"hidden": LayerValues(**hidden | {"shift": shift})}, decoded.representation, TABLE)
    return seal(body, representation=decoded.representation, version=decoded.version, table=TABLE, tag=decoded.tag)


def test_a_batch_gives_what_single_requests_give(models: Path, asked: list[str], packages: list[bytes]) -> None:
    job = Job.of(models, "tiny")
    stages = Stages(models, job)
    alone = [stages.compute([request.sample], [tag])[0] for request, tag in (job.read(body.encode()) for body in asked)]

    assert len(set(packages)) == COUNT
    assert first_difference(packages, alone, TABLE) == ""


async def test_plain_fastapi_answers_as_the_stages_do(
    models: Path, asked: list[str], packages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(plain._MODELS, str(models))
    monkeypatch.setenv(plain._MODEL, "tiny")
    transport = httpx.ASGITransport(plain.build())
    async with httpx.AsyncClient(transport=transport, base_url="http://plain") as client:
        answers = [await client.post("/v1/models/tiny/parameters", content=body) for body in asked]

    assert [answer.status_code for answer in answers] == [200] * COUNT
    assert first_difference(packages, [answer.content for answer in answers], TABLE) == ""


def test_swapped_answers_are_found(packages: list[bytes]) -> None:
    told = first_difference(packages, [packages[1], packages[0], *packages[2:]], TABLE)

    assert told.startswith("answer 0 has tag")


def test_a_number_may_differ_within_the_tolerance_only(packages: list[bytes]) -> None:
    close, far = [moved(packages[0], 0.5e-4), *packages[1:]], [*packages[:-1], moved(packages[-1], 0.1)]

    assert first_difference(packages, close, TABLE) == ""
    assert first_difference(packages, far, TABLE).startswith(f"layer hidden of answer {COUNT - 1} differs by")


def test_what_is_no_package_is_refused(packages: list[bytes]) -> None:
    damaged = bytearray(packages[0])
    damaged[-1] ^= 1

    with pytest.raises(CorruptPackage):
        first_difference(packages, [bytes(damaged), *packages[1:]], TABLE)


def test_a_wire_carries_a_request_and_an_answer() -> None:
    assert PLAIN_WIRE.wrap('{"a": 1}') == '{"a": 1}'
    assert PLAIN_WIRE.unwrap(b"\x00\xff") == b"\x00\xff"
    assert LISTS.wrap('{"a": 1}') == '[{"a": 1}]'
    assert LISTS.unwrap(b'["AP8="]') == b"\x00\xff"
