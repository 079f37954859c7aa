"""A trained run becomes a version that anyone can verify: whole, measured, reproducible without torch."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file

from duet.device.encoders import DeviceEncoder
from duet.device.model_cache import install
from duet.device.runtime import DeviceModel
from duet.evaluation.representations import EMBEDDINGS, Generated, device_ranks, offered_representations
from duet.networks.personalized_parameters_generator import head_segments
from duet.protocol.decoders import encode_embedding
from duet.protocol.embedding_upload import EmbeddingUpload
from duet.protocol.errors import CorruptVersion, UnsupportedManifest, UnusableRun, VersionExists
from duet.protocol.package import LayerValues, ParameterPackage, encode_body, seal
from duet.protocol.representation import Dtype, Form, Representation
from duet.publishing import GOLDEN_SAMPLES, Observer, publish
from duet.registry import Registry
from duet.training.config import TrainingConfig
from duet.training.loop import train
from duet.training.networks import RIVALS
from duet.training.ranking import ask
from duet.training.tasks import split_of

pytestmark = pytest.mark.slow

FILES = {
    *("model_card.md", "vocabulary.json", "generator.safetensors", "golden.safetensors"),
    *("device.onnx", "encoder.onnx", "decoders.onnx"),
}
QUALITY_USERS = 12


def session(version, name):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of overridable initializers, which are the point here
    return onnxruntime.InferenceSession(version.path(name), options, providers=["CPUExecutionProvider"])


@pytest.fixture
def copied(tiny_version, tmp_path):
    """A registry of its own with a copy of the version, to be damaged."""
    shutil.copytree(tiny_version.folder, tmp_path / "models" / "tiny" / "v1")
    return tmp_path / "models"


def test_a_published_version_opens_and_is_what_was_returned(tiny_version):
    opened = Registry(tiny_version.folder.parents[1]).open("tiny")

    assert opened == tiny_version
    assert set(opened.manifest.files) == FILES


def test_a_version_declares_the_embeddings_of_its_own_encoder(tiny_version):
    manifest = tiny_version.manifest

    assert manifest.embedding_upload == EmbeddingUpload(6, manifest.files["encoder.onnx"].sha256)


def test_an_embedding_of_the_published_encoder_is_that_of_the_device(tiny_version):
    onnx = {name: tiny_version.path(name).read_bytes() for name in ("device.onnx", "encoder.onnx")}
    installed = install("tiny", tiny_version.manifest_bytes, onnx["device.onnx"])
    sample = list(tiny_version.vocabulary().ids[:3])
    items = tiny_version.signature().arrays([sample], tiny_version.vocabulary())

    canonical = DeviceEncoder.load(onnx["encoder.onnx"], installed).embed(sample)

    (expected,) = session(tiny_version, "encoder.onnx").run(["embedding"], items)[0]
    assert canonical == expected.astype("<f2").tobytes()


def test_the_manifest_says_what_the_version_can_do_and_where_it_comes_from(tiny_version, tiny_config):
    manifest = tiny_version.manifest

    assert (manifest.task, manifest.embedding_dim, manifest.rank, manifest.heads) == (
        "ranking",
        6,
        3,
        ("factors", "full"),
    )
    assert tiny_version.signature().to_json() == {
        "kind": "sequence",
        "length": 8,
        "max_items": 1000,
        "item_type": "integer",
    }
    training = manifest.training
    assert training["dataset"] == "synthetic-tiny"
    assert (training["users"], training["items"], training["seed"]) == (120, 60, 0)
    assert training["epochs"] == 2
    assert training["commit"]
    assert training["configuration"] == json.loads(tiny_config.model_dump_json(exclude={"data": {"source"}}))


def test_every_representation_has_its_exact_size_and_a_measured_quality(tiny_version):
    manifest = tiny_version.manifest
    users = Generated(manifest.layers, 3, values_of(tiny_version))

    offered = (*offered_representations(("factors", "full"), 3), *EMBEDDINGS)
    assert tuple(record.representation for record in manifest.representations) == offered
    for record in manifest.representations:
        if record.representation in EMBEDDINGS:
            body = encode_embedding(np.zeros(manifest.embedding_dim), record.representation, manifest.layers)
        else:
            body = encode_body(packaged(users, 0, record.representation), record.representation, manifest.layers)
        package = seal(body, representation=record.representation, version=tiny_version.digest, table=manifest.layers)
        assert record.package_bytes == len(package)
        quality = record.quality
        assert (quality.metric, quality.split, quality.higher_is_better) == ("ndcg@10", "validation", True)
        assert 0 < quality.interval[0] <= quality.value <= quality.interval[1] < 1


def values_of(version):
    """Generate the heads' values for the golden samples with numpy alone, from what ``encoder.onnx`` says."""
    tensors, golden = load_file(version.path("generator.safetensors")), load_file(version.path("golden.safetensors"))
    (z,) = session(version, "encoder.onnx").run(None, {"items": golden["input.items"]})
    return {head: z @ tensors[f"{head}.weight"].T + tensors[f"{head}.bias"] for head in version.manifest.heads}


def packaged(users, user, representation):
    """Cut one user's flat values into the arrays of a package by the contract, not by the code under test."""
    if representation.form is Form.SHARED:
        return {}
    head = "full" if representation.form is Form.FULL else "factors"
    values, start = {}, 0
    for layer in users.table:
        m, k, r = layer.outputs, layer.inputs, users.rank
        sizes = [r * m, r * k, m] if head == "factors" else [m * k, m]
        parts = np.split(users.values[head][user][start : start + sum(sizes)], np.cumsum(sizes)[:-1])
        start += sum(sizes)
        if head == "full":
            values[layer.name] = LayerValues(weight=parts[0].reshape(m, k), shift=parts[1])
        elif representation.form is Form.FACTORS:
            values[layer.name] = LayerValues(left=parts[0].reshape(r, m), right=parts[1].reshape(r, k), shift=parts[2])
        else:
            values[layer.name] = LayerValues(weight=parts[0].reshape(r, m).T @ parts[1].reshape(r, k), shift=parts[2])
    return values


def test_golden_outputs_are_reproduced_by_onnx_runtime_and_numpy_alone(tiny_version):
    golden = load_file(tiny_version.path("golden.safetensors"))
    tensors = load_file(tiny_version.path("generator.safetensors"))
    table = tiny_version.manifest.layers
    largest = Representation(Form.FACTORS, Dtype.FLOAT32, 3)
    generated = values_of(tiny_version)
    users = Generated(table, 3, generated)
    shared = {
        layer.name: (tensors[f"shared.{layer.name}.weight"], tensors[f"shared.{layer.name}.bias"]) for layer in table
    }
    device = session(tiny_version, "device.onnx")

    assert golden.keys() == {
        *("input.items", "output.embedding", "output.factors", "output.full", "output.scores"),
    }
    assert len(golden["input.items"]) == GOLDEN_SAMPLES
    (z,) = session(tiny_version, "encoder.onnx").run(None, {"items": golden["input.items"]})
    np.testing.assert_allclose(z, golden["output.embedding"], rtol=0, atol=1e-5)
    for head in ("factors", "full"):
        np.testing.assert_allclose(generated[head], golden[f"output.{head}"], rtol=0, atol=1e-5)
    for user, items in enumerate(golden["input.items"]):
        body = encode_body(packaged(users, user, largest), largest, table)
        package = seal(body, representation=largest, version=tiny_version.digest, table=table)
        composed = ParameterPackage.decode(package, table, version=tiny_version.digest).compose(shared)
        feed = {f"dyn.{name}.weight": weight for name, (weight, _) in composed.items()}
        feed |= {f"dyn.{name}.bias": bias for name, (_, bias) in composed.items()}
        (scores,) = device.run(None, {"items": items[None], **feed})
        np.testing.assert_allclose(scores[0], golden["output.scores"][user], rtol=0, atol=1e-5)
        (defaults,) = device.run(None, {"items": items[None]})
        assert np.abs(defaults[0] - scores[0]).max() > 1e-4


def test_device_and_generator_agree_on_the_shared_parameters(tiny_version):
    device = DeviceModel.load(tiny_version.path("device.onnx"))
    tensors = load_file(tiny_version.path("generator.safetensors"))

    assert device.table == tiny_version.manifest.layers
    for name, (weight, bias) in device.shared.items():
        np.testing.assert_array_equal(weight, tensors[f"shared.{name}.weight"])
        np.testing.assert_array_equal(bias, tensors[f"shared.{name}.bias"])


def test_vocabularies_of_version_and_device_are_those_of_the_data(tiny_version, tiny_interactions):
    device = DeviceModel.load(tiny_version.path("device.onnx"))

    assert tiny_version.vocabulary() == device.vocabulary
    assert device.vocabulary.ids == tiny_interactions.item_ids
    assert device.vocabulary.titles == tiny_interactions.titles


def test_no_file_tells_of_the_machine_it_was_made_on(tiny_version, tiny_run):
    for name in (*tiny_version.manifest.files, "manifest.json"):
        data = (tiny_version.folder / name).read_bytes()
        assert str(tiny_run.parent).encode() not in data, name
        assert b"site-packages" not in data, name


def test_publishing_twice_gives_the_same_files(tiny_version, tiny_run, tiny_interactions, tmp_path):
    again = publish(tiny_run, tiny_interactions, Registry(tmp_path), "tiny", version="v1")

    assert again.manifest.files == tiny_version.manifest.files
    assert again.manifest.representations == tiny_version.manifest.representations


@pytest.fixture(scope="module")
def told():
    """The stages that were told, each with its total, and the measurements, while ``zeroed`` was published."""
    return [], []


@pytest.fixture(scope="module")
def zeroed(told, tiny_run, tiny_interactions, tmp_path_factory):
    """The version of a run whose generator says nothing."""
    stages, measured = told
    observer = Observer(
        on_stage=lambda stage, total: stages.append((stage, total)), on_measured=lambda: measured.append(1)
    )
    run = tmp_path_factory.mktemp("zeroed") / "run"
    shutil.copytree(tiny_run, run)
    tensors = load_tensors(run / "best.safetensors")
    silent = {name: torch.zeros_like(t) if name.startswith("generator.") else t for name, t in tensors.items()}
    assert sum(not torch.equal(silent[name], tensors[name]) for name in tensors) > 10
    save_file(silent, run / "best.safetensors")
    registry = Registry(run.parent / "models")
    return publish(run, tiny_interactions, registry, "silent", quality_users=QUALITY_USERS, observer=observer)


def test_progress_is_told_for_every_measurement(zeroed, told):
    stages, measured = told

    assert [stage for stage, _ in stages] == ["Exporting graphs", "Measuring quality"]
    assert len(measured) == stages[-1][1] == QUALITY_USERS * len(zeroed.manifest.representations)


def test_with_the_generator_zeroed_every_device_scores_as_with_the_shared_parameters(
    zeroed, tiny_config, tiny_interactions
):
    split = split_of(tiny_config, tiny_interactions)
    questions = ask(split, split.users, "validation", 8)
    samples = [[tiny_interactions.item_ids[item - 1] for item in row if item] for row in questions.samples]
    device = DeviceModel.load(zeroed.path("device.onnx"))
    tensors = load_file(zeroed.path("generator.safetensors"))
    sizes = {head: len(tensors[f"{head}.bias"]) for head in ("factors", "full")}
    assert not any(tensors[f"{head}.{kind}"].any() for head in sizes for kind in ("weight", "bias"))
    users = Generated(
        zeroed.manifest.layers, 3, {head: np.zeros((len(samples), size), np.float32) for head, size in sizes.items()}
    )
    assert sizes["factors"] == sum(segment.size for segment in head_segments(users.table, "factors", 3))

    shared = device_ranks(device, users, offered_representations((), 3)[0], samples, questions)

    for representation in offered_representations(("factors", "full"), 3):
        if representation.form is Form.COMPOSED and representation.dtype is not Dtype.FLOAT32:
            continue  # rounds the shared weights themselves
        ranks = device_ranks(device, users, representation, samples, questions)
        assert ranks.full.tobytes() == shared.full.tobytes(), representation
        assert ranks.sampled.tobytes() == shared.sampled.tobytes(), representation


def test_with_the_generator_zeroed_the_manifest_shows_no_gain(zeroed):
    records = {str(record.representation): record.quality for record in zeroed.manifest.representations}

    for name, quality in records.items():
        if not name.startswith("composed") or name.endswith("float32"):
            assert quality == records["shared"], name


@pytest.mark.parametrize("model", ["static", "capacity-matched", "fine-tuned", "film", "concatenated", "apg"])
def test_a_baseline_is_refused_with_what_it_lacks(tiny_config, tiny_interactions, tmp_path, model):
    why = "no form for" if model in RIVALS else "generates nothing"
    config = TrainingConfig.model_validate(
        tiny_config.model_dump() | {"model": model, "optimisation": {"max_epochs": 1, "batch_size": 512}}
    )
    train(config, tiny_interactions, tmp_path / "run")

    with pytest.raises(UnusableRun, match=f"baseline '{model}', which .*{why}") as caught:
        publish(tmp_path / "run", tiny_interactions, Registry(tmp_path / "models"), "m")

    assert "model: duet" in caught.value.remedy
    assert not (tmp_path / "models").exists()


def test_a_generator_with_the_full_head_alone_is_published(tiny_config, tiny_interactions, tmp_path):
    document = tiny_config.model_dump()
    document["generator"] |= {"heads": ("full",), "decoders": 1}
    document["optimisation"] |= {"max_epochs": 1}
    train(TrainingConfig.model_validate(document), tiny_interactions, tmp_path / "run")

    version = publish(
        tmp_path / "run", tiny_interactions, Registry(tmp_path / "models"), "m", quality_users=QUALITY_USERS
    )

    assert [str(record.representation) for record in version.manifest.representations] == [
        *("shared", "full-float32", "full-float16", "full-int8", "embedding-float32", "embedding-float16"),
    ]
    golden = load_file(version.path("golden.safetensors"))
    assert golden.keys() == {"input.items", "output.embedding", "output.full", "output.scores"}


def test_a_run_without_a_finished_epoch_is_refused(tiny_run, tiny_interactions, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "best.safetensors").unlink()

    with pytest.raises(UnusableRun, match="no such checkpoint"):
        publish(tmp_path / "run", tiny_interactions, Registry(tmp_path / "models"), "m")

    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("head", ["factors", "full"])
def test_weights_that_are_not_finite_are_never_published(tiny_run, tiny_interactions, tmp_path, head):
    shutil.copytree(tiny_run, tmp_path / "run")
    tensors = load_tensors(tmp_path / "run" / "best.safetensors")
    tensors[f"generator.decoders.{head}.0.offset"][0] = torch.nan
    save_file(tensors, tmp_path / "run" / "best.safetensors")

    with pytest.raises(UnusableRun, match="not all finite"):
        publish(tmp_path / "run", tiny_interactions, Registry(tmp_path / "models"), "m")

    assert not (tmp_path / "models").exists()


def test_a_version_that_is_there_is_not_replaced(tiny_version, tiny_run, tiny_interactions):
    with pytest.raises(VersionExists):
        publish(tiny_run, tiny_interactions, Registry(tiny_version.folder.parents[1]), "tiny", version="v1")

    assert Registry(tiny_version.folder.parents[1]).open("tiny", "v1") == tiny_version


@pytest.mark.parametrize("moment", ["exporting", "measuring", "almost done"])
def test_an_interrupted_publication_leaves_nothing(tiny_run, tiny_interactions, tmp_path, moment):
    measured = []

    def stop(stage, total):
        if moment == "exporting" or (moment == "measuring" and stage == "Measuring quality"):
            raise KeyboardInterrupt

    def count():
        measured.append(1)
        if len(measured) == 16 * QUALITY_USERS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(
            tiny_run,
            tiny_interactions,
            Registry(tmp_path / "models"),
            "m",
            quality_users=QUALITY_USERS,
            observer=Observer(on_stage=stop, on_measured=count),
        )

    assert not list((tmp_path / "models").rglob("*"))
    assert Registry(tmp_path / "models").models() == []


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_truncated_file_is_refused_by_name(copied, name):
    path = copied / "tiny" / "v1" / name
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(CorruptVersion, match=r"bytes instead of") as caught:
        Registry(copied).open("tiny")

    assert name in str(caught.value)


@pytest.mark.parametrize("name", sorted(FILES))
def test_an_edited_file_is_refused_by_name(copied, name):
    path = copied / "tiny" / "v1" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(CorruptVersion, match="SHA-256") as caught:
        Registry(copied).open("tiny")

    assert name in str(caught.value)


def test_a_version_of_a_future_format_is_refused_with_what_is_known(copied):
    path = copied / "tiny" / "v1" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"format":2', b'"format":3'))

    with pytest.raises(UnsupportedManifest, match="3"):
        Registry(copied).open("tiny", "v1")


def test_a_version_without_one_of_its_files_is_refused(copied):
    (copied / "tiny" / "v1" / "device.onnx").unlink()

    with pytest.raises(CorruptVersion, match=r"lacks device\.onnx"):
        Registry(copied).open("tiny")
