"""The catalog follows the pins of the repository: a version is prepared first and served then, or not at all."""

import asyncio
import logging
import shutil
from pathlib import Path

import pytest

from app.catalog import Catalog
from duet.protocol.errors import CorruptVersion, UnknownModel, UnknownVersion
from duet.registry import Registry
from tests.published_version import write_version


class Stages:
    """Remember what they prepared; refuse what they are told to; wait where they are told to."""

    def __init__(self) -> None:
        self.prepared: list[tuple[str, str]] = []
        self.refused: set[str] = set()
        self.broken: set[str] = set()
        self.asked, self.may_go_on = asyncio.Event(), asyncio.Event()
        self.may_go_on.set()

    async def prepare(self, model: str, version: str) -> None:
        self.asked.set()
        await self.may_go_on.wait()
        if version in self.refused:
            raise CorruptVersion(path=f"{model}/{version}", reason="its golden output differs")
        if model in self.broken:
            # what a library says of a file that it cannot read; the number is another one each time
            raise RuntimeError(f"protobuf parsing failed at {object()!r}")
        self.prepared.append((model, version))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_version(tmp_path, version="v1", seed=1)
    return tmp_path


async def started(models: Path, stages: Stages, *, only: str | None = None) -> Catalog:
    catalog = Catalog(models, stages.prepare, only=only, refresh_s=3600)
    await catalog.start()
    await catalog.stop()  # the tests look for changes themselves
    return catalog


async def test_the_active_version_is_prepared_before_the_start_is_over(models: Path) -> None:
    stages = Stages()

    catalog = await started(models, stages)

    assert stages.prepared == [("tiny", "v1")]
    assert catalog.active("tiny").published.version == "v1"
    assert len(catalog.active("tiny").offers) == 16


async def test_a_start_with_nothing_to_serve_fails(tmp_path: Path, models: Path) -> None:
    for folder, only in ((tmp_path / "empty", None), (models, "films")):
        with pytest.raises(UnknownModel):
            await started(folder, Stages(), only=only)


async def test_a_start_with_a_version_that_stages_refuse_fails(models: Path) -> None:
    stages = Stages()
    stages.refused.add("v1")

    with pytest.raises(CorruptVersion):
        await started(models, stages)


async def test_only_the_named_model_is_served(models: Path) -> None:
    write_version(models, "other")

    catalog = await started(models, Stages(), only="tiny")

    assert [summary.name for summary in await catalog.summaries()] == ["tiny"]
    with pytest.raises(UnknownModel) as refusal:
        catalog.active("other")
    assert refusal.value.known == ("tiny",)


async def test_a_new_version_is_served_after_it_is_prepared_and_not_before(models: Path) -> None:
    stages = Stages()
    catalog = await started(models, stages)
    write_version(models, version="v2", seed=2)
    stages.may_go_on.clear()

    stages.asked.clear()

    looking = asyncio.create_task(catalog.refresh())
    await asyncio.wait_for(stages.asked.wait(), 10)
    while_it_is_prepared = catalog.active("tiny").published.version
    stages.may_go_on.set()
    await looking

    assert while_it_is_prepared == "v1"
    assert catalog.active("tiny").published.version == "v2"


async def test_a_pin_is_followed_forwards_and_backwards(models: Path) -> None:
    registry = Registry(models)
    write_version(models, version="v2", seed=2)
    registry.activate("tiny", "v1")
    catalog = await started(models, Stages())
    seen = [catalog.active("tiny").published.version]

    registry.activate("tiny", "v2")
    await catalog.refresh()
    seen.append(catalog.active("tiny").published.version)
    registry.rollback("tiny")
    await catalog.refresh()
    seen.append(catalog.active("tiny").published.version)

    assert seen == ["v1", "v2", "v1"]


async def test_a_version_that_cannot_be_prepared_leaves_the_old_one_and_one_warning(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stages = Stages()
    catalog = await started(models, stages)
    write_version(models, version="v2", seed=2)
    stages.refused.add("v2")

    for _ in range(3):
        await catalog.refresh()
    refused_at = catalog.active("tiny").published.version
    stages.refused.clear()
    await catalog.refresh()

    assert refused_at == "v1"
    assert catalog.active("tiny").published.version == "v2"
    assert caplog.text.count("golden output differs") == 1


async def test_a_version_that_breaks_a_stage_keeps_nobody_else_from_a_new_one(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_version(models, "another")
    stages = Stages()
    catalog = await started(models, stages)
    for model in ("another", "tiny"):
        write_version(models, model, version="v2", seed=2)
    stages.broken.add("another")

    for _ in range(3):
        await catalog.refresh()
    told = caplog.text.count("Model another stays at version v1")
    (models / "another" / "note").mkdir()  # a change
    await catalog.refresh()

    assert catalog.active_versions == {"another": "v1", "tiny": "v2"}
    assert told == 1
    assert caplog.text.count("Model another stays at version v1") == 2
    assert "protobuf parsing failed" in caplog.text


async def test_a_new_model_is_served(models: Path) -> None:
    catalog = await started(models, Stages())
    write_version(models, "other")

    await catalog.refresh()

    assert catalog.active_versions == {"other": "v1", "tiny": "v1"}


async def test_nothing_is_read_again_while_nothing_changes(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = await started(models, Stages())
    reads: list[str] = []
    monkeypatch.setattr(Registry, "pin", lambda _registry, model: reads.append(model))

    await catalog.refresh()

    assert not reads


class Told(logging.Handler):
    """Is set by the first line of a log that says something."""

    def __init__(self, something: str) -> None:
        super().__init__()
        self.something, self.is_told = something, asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a line."""
        if self.something in record.getMessage():
            self.is_told.set()


async def test_changes_are_found_without_being_asked(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog, told = Catalog(models, Stages().prepare, only=None, refresh_s=0.01), Told("version v2")
    await catalog.start()
    logging.getLogger("app.catalog").addHandler(told)
    write_version(models, version="v2", seed=2)

    with caplog.at_level(logging.INFO, "app.catalog"):
        await asyncio.wait_for(told.is_told.wait(), 20)
    logging.getLogger("app.catalog").removeHandler(told)
    await catalog.stop()

    assert catalog.active("tiny").published.version == "v2"


async def test_other_versions_can_be_read_without_being_served(models: Path) -> None:
    write_version(models, version="v2", seed=2)
    Registry(models).activate("tiny", "v1")
    stages = Stages()
    catalog = await started(models, stages)

    other = await catalog.version("tiny", "v2")

    assert other.published.version == "v2"
    assert await catalog.version("tiny", "v2") is other
    assert await catalog.version("tiny", None) is catalog.active("tiny")
    assert stages.prepared == [("tiny", "v1")]
    with pytest.raises(UnknownVersion):
        await catalog.version("tiny", "v3")


async def test_a_damaged_version_is_told_as_that_and_its_path_stays_inside(models: Path) -> None:
    write_version(models, version="v2", seed=2)
    Registry(models).activate("tiny", "v1")
    catalog = await started(models, Stages())
    shutil.copy(models / "tiny" / "v1" / "encoder.onnx", models / "tiny" / "v2" / "encoder.onnx")

    with pytest.raises(CorruptVersion) as refusal:
        await catalog.version("tiny", "v2")

    assert "tiny/v2" in str(refusal.value)
    assert str(models) not in f"{refusal.value} {refusal.value.facts}"


async def test_a_model_whose_folder_is_gone_is_listed_as_it_is_served(models: Path) -> None:
    write_version(models, "other")
    catalog = await started(models, Stages())
    shutil.rmtree(models / "other")

    summaries = await catalog.summaries()

    assert [(summary.name, summary.versions) for summary in summaries] == [("other", ("v1",)), ("tiny", ("v1",))]


async def test_a_switch_of_versions_is_logged(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog = await started(models, Stages())
    write_version(models, version="v2", seed=2)

    with caplog.at_level("INFO"):
        await catalog.refresh()

    assert "Model tiny is served at version v2" in caplog.text
