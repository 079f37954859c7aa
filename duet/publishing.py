"""A trained run becomes a published version: exported graphs, folded generator, golden outputs, measured quality.

Shapes: G golden samples, U users, T sample length, D embedding, P flat values of a head.
"""

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from duet.evaluation.exams import Exam, exam_of
from duet.evaluation.model_card import model_card
from duet.evaluation.provenance import commit
from duet.evaluation.representations import (
    EMBEDDINGS,
    Decoding,
    Generated,
    answered_representations,
    device_scores,
    measure_representations,
)
from duet.networks.duet_network import DuetNetwork, Served
from duet.networks.export import export_device_model, export_encoder, generator_tensors
from duet.networks.export_decoders import export_decoders
from duet.networks.personalized_parameters_generator import Head, split_values
from duet.protocol.canonical_json import Json
from duet.protocol.decoders import DECODERS_FILE
from duet.protocol.device_model import GOLDEN_DEVICE_INPUT
from duet.protocol.errors import UnusableRun
from duet.protocol.manifest import RepresentationRecord
from duet.protocol.representation import Dtype, Form, Representation
from duet.registry import CARD_NAME, PublishedVersion, Registry
from duet.training import checkpoint
from duet.training.config import TrainingConfig
from duet.training.networks import RIVALS, build_network
from duet.training.tasks import Data, task_of

GOLDEN_SAMPLES = 8
QUALITY_USERS = 1000
PARITY_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Observer:
    """Whom publishing tells: what it does now, and after each of ``total`` measurements."""

    on_stage: Callable[[str, int], None] = lambda stage, total: None
    on_measured: Callable[[], None] = lambda: None


def publish(
    run: Path,
    data: Data,
    registry: Registry,
    model: str,
    *,
    version: str | None = None,
    quality_users: int = QUALITY_USERS,
    decoders: bool = True,
    observer: Observer | None = None,
) -> PublishedVersion:
    """Publish the best epoch of a run as a new version of a model.

    Quality is measured on the validation part, through package bytes and the device's ONNX graph; the test part is
    never touched.

    Args:
        run: Folder of a ``duet`` run.
        data: The data the run was trained on.
        registry: Where to publish.
        model: Name of the model.
        version: Name of the version; the time by default.
        quality_users: Measure on at most this many users or devices, always the same ones of a data set.
        decoders: Give the decoders to devices that want to generate for themselves; without, the generator stays in the
            cloud.
        observer: Whom to tell.

    Raises:
        UnusableRun: If the run is a baseline, has no checkpoint yet or a broken one, or its exported graphs disagree
            with its network.
        VersionExists: If the version is there already.
    """
    observer = observer or Observer()
    config = checkpoint.read_run_config(run)
    if config.model != "duet":
        raise UnusableRun(
            path=run,
            reason=f"it trained the baseline {config.model!r}, which {_unpublishable(config.model)}",
            remedy="Train with `model: duet`.",
        )
    checkpoint.check_data(run, data)
    network = build_network(config, task_of(config, data).outputs)
    assert isinstance(network, DuetNetwork)
    checkpoint.load_best(run, network)
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise UnusableRun(
            path=run, reason="its best weights are not all finite", remedy="Train again with a lower learning rate."
        )
    network.eval()
    exam = exam_of(config, data)
    with registry.publish(model, version) as pending:
        observer.on_stage("Exporting graphs", 0)
        encoder_onnx = export_encoder(network, exam.signature)
        device_onnx = export_device_model(network, exam.device_signature, exam.vocabulary)
        tensors = generator_tensors(network)
        _write(pending.folder / "vocabulary.json", exam.vocabulary.to_json())
        (pending.folder / "encoder.onnx").write_bytes(encoder_onnx)
        (pending.folder / "device.onnx").write_bytes(device_onnx)
        best = _best_head(network)
        decoders_onnx = export_decoders(tensors, network.meta.table, best, network.sizes.rank)
        if decoders:
            (pending.folder / DECODERS_FILE).write_bytes(decoders_onnx)
        save_file(tensors, pending.folder / "generator.safetensors")
        few = exam.only(np.arange(min(GOLDEN_SAMPLES, len(exam))))
        graphs = _Graphs(encoder_onnx, device_onnx, decoders_onnx)
        golden = _golden(network, few, graphs, tensors, run)
        save_file(golden, pending.folder / "golden.safetensors")
        records = _measure(network, exam, graphs, tensors, quality_users, observer, decoders=decoders)
        training = _training(config, data.name, exam, checkpoint.read_progress(run))
        title = f"{pending.model}, version {pending.version}"
        told = exam.card(type(network.meta.backbone).__name__, training, quality_users)
        card = model_card(title, told, config, training, records)
        (pending.folder / CARD_NAME).write_text(card, encoding="utf-8")
        return pending.commit(
            task=exam.task,
            signature=exam.signature,
            layers=network.meta.table,
            embedding_dim=config.generator.embedding_dim,
            rank=config.generator.rank,
            heads=network.generator.heads,
            representations=records,
            training=training,
        )


def _unpublishable(model: str) -> str:
    """Say why no server can answer with what a baseline makes."""
    if model in RIVALS:
        return "generates what the parameter package has no form for"
    return "generates nothing"


@dataclass(frozen=True)
class _Graphs:
    """What is published for ONNX Runtime."""

    encoder: bytes
    device: bytes
    decoders: bytes


def _best_head(network: DuetNetwork) -> Head:
    """Name the head that golden outputs and decoders are of."""
    return "factors" if "factors" in network.generator.heads else "full"


def _measure(
    network: DuetNetwork,
    exam: Exam,
    graphs: _Graphs,
    tensors: Mapping[str, Tensor],
    quality_users: int,
    observer: Observer,
    *,
    decoders: bool,
) -> tuple[RepresentationRecord, ...]:
    if len(exam) > quality_users:
        exam = exam.only(np.sort(np.random.default_rng(0).choice(len(exam), quality_users, replace=False)))
    embeddings = _encode(graphs.encoder, exam.inputs)
    generated = Generated(
        network.meta.table,
        network.sizes.rank,
        _generate(tensors, embeddings, network.generator.heads),
        Decoding.by(graphs.decoders, embeddings) if decoders else None,
    )
    observer.on_stage("Measuring quality", len(answered_representations(generated)) * len(exam))
    return measure_representations(graphs.device, generated, exam, split="validation", on_user=observer.on_measured)


def _encode(encoder_onnx: bytes, samples: NDArray[np.generic]) -> NDArray[np.float32]:
    """Run the exported encoder on samples ``[U, T, ...]``: embeddings ``[U, D]``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(encoder_onnx, options, providers=["CPUExecutionProvider"])
    (sample,) = [value.name for value in session.get_inputs()]
    chunks = [session.run(None, {sample: samples[start : start + 256]})[0] for start in range(0, len(samples), 256)]
    return np.concatenate(chunks)


def _generate(
    tensors: Mapping[str, Tensor], embeddings: NDArray[np.float32], heads: tuple[Head, ...]
) -> dict[Head, NDArray[np.float32]]:
    z = torch.from_numpy(embeddings)
    return {head: torch.addmm(tensors[f"{head}.bias"], z, tensors[f"{head}.weight"].T).numpy() for head in heads}


def _golden(
    network: DuetNetwork,
    exam: Exam,
    graphs: _Graphs,
    tensors: Mapping[str, Tensor],
    run: Path,
) -> dict[str, Tensor]:
    """Return samples and what must come out for them, after checking that what is exported agrees with the network."""
    inputs, positions = torch.from_numpy(exam.inputs), torch.from_numpy(exam.newest)
    (name,) = exam.signature.input_names
    best = _best_head(network)
    with torch.no_grad():
        embedding = network.embeddings(inputs).flatten(0, 1)[positions]
        states, _ = network.condition(inputs, positions)
        golden = {f"input.{name}": inputs, "output.embedding": embedding}
        if exam.device_signature != exam.signature:
            read = exam.device_signature.arrays(exam.samples, exam.vocabulary)
            golden |= {f"{GOLDEN_DEVICE_INPUT}{name}": torch.from_numpy(array) for name, array in read.items()}
        for head in network.generator.heads:
            values = torch.addmm(tensors[f"{head}.bias"], embedding, tensors[f"{head}.weight"].T)
            golden[f"output.{head}"] = values
            if head == best:
                rank = network.sizes.rank
                residuals = split_values(values, network.meta.table, head, rank=rank, use_rank=rank)
                golden["output.scores"] = network.meta.scores(states, residuals).contiguous()
        direct = network.meta.scores(states, network.residuals(embedding, Served(best, network.sizes.rank)))
    exported = torch.from_numpy(_encode(graphs.encoder, exam.inputs))
    _check_parity(run, "encoder.onnx", exported, embedding)
    _check_parity(run, "the folded generator", direct, golden["output.scores"])
    decoding = Decoding.by(graphs.decoders, embedding.numpy())
    generated = Generated(network.meta.table, network.sizes.rank, {best: golden[f"output.{best}"].numpy()}, decoding)
    form, rank = (Form.FACTORS, network.sizes.rank) if best == "factors" else (Form.FULL, 0)
    for file, sent in (
        ("device.onnx", Representation(form, Dtype.FLOAT32, rank)),
        (DECODERS_FILE, EMBEDDINGS[0]),
    ):
        scored = torch.from_numpy(device_scores(graphs.device, generated, sent, exam.samples))
        _check_parity(run, file, scored, golden["output.scores"])
    return {name: tensor.clone() for name, tensor in golden.items()}


def _check_parity(run: Path, name: str, exported: Tensor, trained: Tensor) -> None:
    error = float((exported - trained).abs().max() / trained.abs().max().clamp(min=1))
    if not error <= PARITY_TOLERANCE:
        raise UnusableRun(
            path=run,
            reason=f"{name} differs from the trained network by {error:.2e}, more than {PARITY_TOLERANCE}",
            remedy="Report this: exporting changed the model.",
        )


def _training(config: TrainingConfig, data: str, exam: Exam, progress: checkpoint.Progress) -> dict[str, Json]:
    versions: dict[str, Json] = {name: installed(name) for name in ("torch", "onnx", "numpy")}
    versions["python"] = platform.python_version()
    # the data set is named above; where its file lay is nobody's business
    configuration: dict[str, Json] = json.loads(config.model_dump_json(exclude={"data": {"source"}}))
    return {
        "dataset": data,
        **exam.facts,
        "seed": config.seed,
        "commit": commit(),
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 1),
        f"validation_{exam.metric}": round(progress.best_value, 6),
        "configuration": configuration,
        "versions": versions,
    }


def _write(path: Path, document: Json) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
