"""The model repository: versions appear whole or not at all, in order, and one of them is active."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from duet.protocol.errors import (
    CorruptVersion,
    InvalidName,
    InvalidRequest,
    UnknownModel,
    UnknownVersion,
    VersionExists,
)
from duet.protocol.manifest import digest_of
from duet.protocol.signature import SequenceSignature
from duet.registry import PublishedVersion, Registry
from tests.duet.small_version import FILES, VOCABULARY, commit, fill, publish


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def everything_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_published_version_can_be_opened(registry):
    published = publish(registry)

    opened = registry.open("films", "v1")

    assert opened == published
    assert opened.folder == registry.root / "films" / "v1"
    assert {name: opened.path(name).read_bytes() for name in opened.manifest.files} == FILES
    assert opened.manifest_bytes == (opened.folder / "manifest.json").read_bytes()
    assert opened.digest == digest_of(opened.manifest_bytes)
    assert opened.vocabulary() == VOCABULARY
    assert opened.signature() == SequenceSignature(length=3)
    assert everything_in(registry.root) == sorted(
        ["films", "films/v1", "films/v1/manifest.json", *(f"films/v1/{name}" for name in FILES)]
    )


def test_published_files_can_be_read_by_other_users_of_the_machine(registry):
    assert publish(registry).folder.stat().st_mode & 0o777 == 0o755


def test_versions_are_listed_oldest_first_and_the_newest_is_active(registry):
    publish(registry, "b", created="2026-01-02T00:00:00+00:00")
    publish(registry, "a", created="2026-01-03T00:00:00+00:00")
    publish(registry, "c", created="2026-01-02T00:30:00+01:00")
    publish(registry, model="songs")

    assert registry.models() == ["films", "songs"]
    assert registry.versions("films") == ["c", "b", "a"]
    assert registry.active("films") == "a"
    assert registry.open("films").version == "a"


def test_a_version_is_named_after_the_time_unless_it_has_a_name(registry):
    names = [publish(registry, None).version for _ in range(3)]

    assert len(set(names)) == 3
    assert all(len(name.split("-")[0]) == len("20260131T120000Z") for name in names)
    assert registry.versions("films") == names


def test_an_empty_repository_lists_nothing(registry):
    assert registry.models() == []
    with pytest.raises(UnknownModel) as caught:
        registry.versions("films")
    assert caught.value.known == ()


@pytest.mark.parametrize(
    "model", ["books", "", "..", "../films", "films/v1", "/", ".films", "films\n", "FILMS", "x" * 65, "a\0b"]
)
def test_another_model_is_unknown_and_no_path_leaves_the_repository(registry, model):
    publish(registry)

    for look_up in (registry.versions, registry.active, registry.open, registry.rollback):
        with pytest.raises(UnknownModel) as caught:
            look_up(model)
        assert caught.value.known == ("films",)


@pytest.mark.parametrize("version", ["v2", "", "..", "../../films/v1", "v1/", "active", ".v1", "v1\n"])
def test_another_version_is_unknown_and_no_path_leaves_the_repository(registry, version):
    publish(registry)
    registry.activate("films", "v1")

    for look_up in (registry.open, registry.activate):
        with pytest.raises(UnknownVersion) as caught:
            look_up("films", version)
        assert caught.value.known == ("v1",)


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("Films", "v1"),
        ("../films", "v1"),
        ("", "v1"),
        ("x" * 65, "v1"),
        ("films", ""),
        ("films", ".."),
        ("films", "../v1"),
        ("films", "v1/x"),
        ("films", ".v1"),
        ("films", "active"),
        ("films", "ACTIVE"),
        ("films", "manifest.json"),
        ("films", "v1\n"),
    ],
)
def test_a_name_that_could_mean_something_else_is_refused(registry, model, version):
    with pytest.raises(InvalidName), registry.publish(model, version):
        pytest.fail("the block must not run")

    assert not registry.root.exists()


def test_a_published_version_is_never_replaced(registry):
    published = publish(registry)

    with pytest.raises(VersionExists), registry.publish("films", "v1"):
        pytest.fail("the block must not run")

    assert registry.open("films", "v1") == published


def test_an_error_while_publishing_leaves_nothing(registry):
    def publish_half() -> None:
        with registry.publish("films", "v1") as pending:
            fill(pending)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        publish_half()

    assert everything_in(registry.root) == []


def test_leaving_without_a_commit_publishes_nothing(registry):
    publish(registry, "v1")

    with registry.publish("films", "v2") as pending:
        fill(pending)

    assert registry.versions("films") == ["v1"]
    assert [path.name for path in (registry.root / "films").iterdir()] == ["v1"]


@pytest.mark.parametrize(
    "changes", [{"rank": 0}, {"embedding_dim": 0}, {"training": {"loss": float("nan")}}, {"created": "now"}], ids=str
)
def test_a_manifest_that_contradicts_itself_is_not_published(registry, changes):
    with pytest.raises(ValueError, match=r"."):
        publish(registry, **changes)

    assert everything_in(registry.root) == []


@pytest.mark.parametrize("kind", ["folder", "link", "manifest", "hidden"])
def test_only_plain_files_are_published(registry, kind, tmp_path):
    with registry.publish("films", "v1") as pending:
        fill(pending)
        if kind == "folder":
            (pending.folder / "more").mkdir()
        elif kind == "link":
            (tmp_path / "secret").write_text("secret")
            (pending.folder / "link.txt").symlink_to(tmp_path / "secret")
        else:
            (pending.folder / {"manifest": "manifest.json", "hidden": ".hidden"}[kind]).write_text("{}")

        with pytest.raises(ValueError, match="plain files"):
            commit(pending)

    assert everything_in(registry.root) == []


def test_of_two_publishers_of_one_version_exactly_one_wins(registry):
    together = threading.Barrier(2, timeout=30)
    outcomes: list[object] = []

    def publish_with_the_other(seed: int) -> None:
        try:
            with registry.publish("films", "v1") as pending:
                fill(pending)
                together.wait()
                outcomes.append(commit(pending, training={"seed": seed}))
        except VersionExists as error:
            outcomes.append(error)

    threads = [threading.Thread(target=publish_with_the_other, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, PublishedVersion)]
    (loser,) = [outcome for outcome in outcomes if isinstance(outcome, VersionExists)]
    assert loser.path == str(winner.folder)
    assert registry.open("films", "v1") == winner
    assert [path.name for path in (registry.root / "films").iterdir()] == ["v1"]


def test_a_publisher_that_is_killed_makes_no_version(registry):
    program = (
        "import os, signal, sys\n"
        "from duet.registry import Registry\n"
        "with Registry(sys.argv[1]).publish('films', 'v1') as pending:\n"
        "    (pending.folder / 'encoder.onnx').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    killed = subprocess.run([sys.executable, "-c", program, str(registry.root)], timeout=60, check=False)

    assert killed.returncode == -signal.SIGKILL
    assert registry.models() == []
    with pytest.raises(UnknownModel):
        registry.open("films", "v1")
    assert publish(registry).version == "v1"
    assert registry.versions("films") == ["v1"]


def test_a_file_that_was_not_published_has_no_path(registry):
    published = publish(registry)

    for name in ("generator.safetensors", "manifest.json", "../../secret"):
        with pytest.raises(CorruptVersion, match="lists no file"):
            published.path(name)


def test_a_pin_holds_while_newer_versions_appear(registry):
    publish(registry, "v1")
    registry.activate("films", "v1")
    publish(registry, "v2")

    assert registry.active("films") == "v1"
    assert registry.open("films").version == "v1"
    assert registry.models() == ["films"]
    assert registry.versions("films") == ["v1", "v2"]


def test_pinning_what_is_active_keeps_it_while_newer_versions_appear(registry):
    publish(registry, "v1")

    registry.activate("films", registry.active("films"))
    publish(registry, "v2")

    assert registry.active("films") == "v1"


def test_rolling_back_returns_to_what_was_active_and_forth_again(registry):
    for version in ("v1", "v2", "v3"):
        publish(registry, version)
    registry.activate("films", "v1")
    registry.activate("films", "v3")
    registry.activate("films", "v3")

    assert registry.rollback("films") == "v1" == registry.active("films")
    assert registry.rollback("films") == "v3" == registry.active("films")


def test_the_first_pin_remembers_the_newest_version(registry):
    for version in ("v1", "v2"):
        publish(registry, version)

    registry.activate("films", "v1")

    assert registry.rollback("films") == "v2"


def test_rolling_back_without_a_pin_goes_to_the_next_older_version(registry):
    for version in ("v1", "v2"):
        publish(registry, version)

    assert registry.rollback("films") == "v1" == registry.active("films")


def test_there_is_nothing_to_roll_back_to_from_the_only_version(registry):
    publish(registry)

    with pytest.raises(InvalidRequest, match="there is no earlier one"):
        registry.rollback("films")
    assert registry.active("films") == "v1"


def test_rolling_back_to_a_damaged_version_changes_nothing(registry):
    (publish(registry, "v1").folder / "encoder.onnx").write_bytes(b"other")
    publish(registry, "v2")

    with pytest.raises(CorruptVersion):
        registry.rollback("films")

    assert registry.active("films") == "v2"


def test_a_pin_to_a_version_that_is_gone_is_an_error_not_another_version(registry):
    publish(registry, "v1")
    folder = publish(registry, "v2").folder
    registry.activate("films", "v2")
    folder.rename(folder.with_name(".v2"))

    with pytest.raises(UnknownVersion) as caught:
        registry.active("films")

    assert (caught.value.version, caught.value.known) == ("v2", ("v1",))


@pytest.mark.parametrize(
    "data", [b"", b"v1", b"[]", b'{"version": "v1"}', b'{"version": 1, "previous": null}', b"[" * 100_000]
)
def test_a_pin_that_cannot_be_read_is_an_error(registry, data):
    publish(registry)
    (registry.root / "films" / "active").write_bytes(data)

    with pytest.raises(CorruptVersion, match="duet models activate films VERSION"):
        registry.active("films")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_activating_replaces_a_pin_that_cannot_be_read(registry, version):
    for published in ("v1", "v2"):
        publish(registry, published)
    (registry.root / "films" / "active").write_bytes(b"{")

    registry.activate("films", version)

    assert registry.active("films") == version


def test_a_pin_is_replaced_in_one_step(registry):
    for version in ("v1", "v2"):
        publish(registry, version)
    registry.activate("films", "v1")
    pin = registry.root / "films" / "active"

    with pin.open("rb") as reader:
        registry.activate("films", "v2")
        # who opened the old pin still reads all of it: it was never written to
        assert json.load(reader)["version"] == "v1"

    assert registry.active("films") == "v2"
    assert sorted(path.name for path in (registry.root / "films").iterdir()) == [".active.lock", "active", "v1", "v2"]
