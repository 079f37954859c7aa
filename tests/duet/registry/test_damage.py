"""The model repository: a version that is not what was published is refused, with the reason."""

import json
from pathlib import Path

import pytest

from duet.protocol.errors import CorruptVersion, UnsupportedManifest
from duet.registry import Registry
from tests.duet.small_version import FILES, commit, publish


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def truncate(folder: Path) -> str:
    (folder / "encoder.onnx").write_bytes(FILES["encoder.onnx"][:-1])
    return "bytes instead of"


def edit(folder: Path) -> str:
    (folder / "encoder.onnx").write_bytes(b"E" + FILES["encoder.onnx"][1:])
    return "SHA-256"


def remove(folder: Path) -> str:
    (folder / "card.md").unlink()
    return "lacks card.md"


def add(folder: Path) -> str:
    (folder / "encoder.pkl").write_bytes(b"")
    return "encoder.pkl, which the manifest does not list"


def add_hidden(folder: Path) -> str:
    (folder / ".notes").write_bytes(b"")
    return ".notes, which"


def link(folder: Path) -> str:
    (folder / "encoder.onnx").rename(folder.parent.parent / "elsewhere")
    (folder / "encoder.onnx").symlink_to(folder.parent.parent / "elsewhere")
    return "no plain file"


def replace_by_a_folder(folder: Path) -> str:
    (folder / "card.md").unlink()
    (folder / "card.md").mkdir()
    return "no plain file"


def remove_the_manifest(folder: Path) -> str:
    (folder / "manifest.json").unlink()
    return "missing"


def truncate_the_manifest(folder: Path) -> str:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-1])
    return "manifest cannot be used"


def nest_the_manifest(folder: Path) -> str:
    (folder / "manifest.json").write_bytes(b"[" * 100_000)
    return "nested too deeply"


def put_nan_into_the_manifest(folder: Path) -> str:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"value":0.3', b'"value":NaN'))
    return "NaN"


def edit_a_hash(folder: Path) -> str:
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    document["files"]["card.md"]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    return "SHA-256"


def list_a_file_outside(folder: Path) -> str:
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    document["files"]["../../secret"] = document["files"]["card.md"]
    path.write_text(json.dumps(document))
    return "no plain file name"


DAMAGES = [
    truncate,
    edit,
    remove,
    add,
    add_hidden,
    link,
    replace_by_a_folder,
    remove_the_manifest,
    truncate_the_manifest,
    nest_the_manifest,
    put_nan_into_the_manifest,
    edit_a_hash,
    list_a_file_outside,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_version_that_someone_changed_is_refused_with_the_reason(registry, damage):
    folder = publish(registry).folder

    reason = damage(folder)

    with pytest.raises(CorruptVersion) as caught:
        registry.open("films", "v1")
    assert reason in caught.value.reason
    assert str(folder) in caught.value.path
    with pytest.raises(CorruptVersion):
        registry.activate("films", "v1")


def test_a_version_of_a_future_format_is_refused(registry):
    path = publish(registry).folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"format":2', b'"format":3'))

    with pytest.raises(UnsupportedManifest) as caught:
        registry.open("films", "v1")

    assert (caught.value.received, caught.value.known) == (3, (1, 2))


def test_a_renamed_or_moved_version_is_refused(registry):
    folder = publish(registry).folder
    folder.rename(folder.with_name("v2"))

    with pytest.raises(CorruptVersion, match="that of version v1 of model films"):
        registry.open("films", "v2")


def test_a_corrupt_version_is_listed_but_never_active_by_default(registry):
    publish(registry, "v1")
    remove_the_manifest(publish(registry, "v2").folder)

    assert registry.versions("films") == ["v2", "v1"]
    assert registry.active("films") == "v1"


@pytest.mark.parametrize("data", [b"", b"{", b'{"ids": []}', b'{"ids": [NaN], "titles": null}', b"[" * 100_000])
def test_a_vocabulary_that_is_none_is_refused(registry, data):
    with registry.publish("films", "v1") as pending:
        (pending.folder / "vocabulary.json").write_bytes(data)
        published = commit(pending)

    with pytest.raises(CorruptVersion, match="vocabulary"):
        published.vocabulary()
