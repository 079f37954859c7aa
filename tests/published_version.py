"""A tiny published version for tests: random weights, but the graphs, tensors, hashes and manifest of a real one.

The backbone averages item embeddings; two dynamic layers of ragged sizes make twelve scores from the average:

    x = mean_t table[items_t]      hidden = relu(x W_hidden^T + b_hidden)      scores = hidden W_output^T + b_output

Shapes: T sample length, D embedding, R rank, M output and K input features of a dynamic layer.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime
import safetensors.numpy
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from duet.networks.export_decoders import export_decoders
from duet.protocol.decoders import DECODERS_FILE
from duet.protocol.device_model import encode_shared
from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.manifest import Quality, RepresentationRecord
from duet.protocol.package import LayerValues
from duet.protocol.representation import SHARED, Dtype, Form, Representation
from duet.protocol.signature import SequenceSignature, Vocabulary
from duet.registry import PublishedVersion, Registry

Array = NDArray[np.float32]

LENGTH, EMBEDDING, RANK, FEATURES = 6, 8, 3, 8
ITEM_IDS = tuple(range(101, 113))
VOCABULARY = Vocabulary(ITEM_IDS, tuple(f"Item #{place + 1}" for place in range(len(ITEM_IDS))))
SIGNATURE = SequenceSignature(length=LENGTH, max_items=40)
TABLE = LayerTable(
    (DynamicLayer("hidden", outputs=7, inputs=FEATURES), DynamicLayer("output", len(ITEM_IDS), inputs=7))
)
OPSET = [helper.make_opsetid("", 17)]


def write_version(
    models: Path,
    model: str = "tiny",
    version: str = "v1",
    *,
    seed: int = 0,
    heads: Sequence[str] = ("factors", "full"),
    golden_error: Mapping[str, float] = MappingProxyType({}),
    quality: Mapping[str, float] = MappingProxyType({}),
    decoders: bool = False,
    spoil: Callable[[Path], None] = lambda folder: None,
) -> PublishedVersion:
    """Publish a version whose every weight follows from ``seed``.

    Args:
        models: Root of the model repository.
        model: Its name.
        version: Its name.
        seed: Of all weights.
        heads: What the generator emits.
        golden_error: What to add to golden tensors, by name, so that they are wrong.
        quality: What the manifest says of representations, by name, where it is not to be made up.
        decoders: Whether devices may generate for themselves.
        spoil: Changes the files before they are hashed, so that only what is in them is wrong.
    """
    random = np.random.default_rng(seed)
    shared = shared_parameters(seed)
    tensors = _generator(random, shared, heads)
    encoder = _encoder(random)
    device = _device(random, shared)

    with Registry(models).publish(model, version) as pending:
        (pending.folder / "vocabulary.json").write_text(json.dumps(VOCABULARY.to_json()))
        onnx.save(encoder, pending.folder / "encoder.onnx")
        onnx.save(device, pending.folder / "device.onnx")
        safetensors.numpy.save_file(tensors, pending.folder / "generator.safetensors")
        golden = _golden(random, encoder, device, tensors, shared)
        for name, error in golden_error.items():
            golden[name] = golden[name] + np.float32(error)
        safetensors.numpy.save_file(golden, pending.folder / "golden.safetensors")
        if decoders:
            folded = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
            (pending.folder / DECODERS_FILE).write_bytes(export_decoders(folded, TABLE, "factors", RANK))
        spoil(pending.folder)
        (pending.folder / "model_card.md").write_text("# tiny\n\nRandom weights, for tests.\n")
        return pending.commit(
            task="ranking",
            signature=SIGNATURE,
            layers=TABLE,
            embedding_dim=EMBEDDING,
            rank=RANK,
            heads=heads,
            representations=_records(heads, quality, decoders=decoders),
            training={"dataset": "none", "seed": seed},
        )


def shared_parameters(seed: int) -> dict[str, tuple[Array, Array]]:
    """Weight and bias of every dynamic layer of the shared classifier of a version."""
    random = np.random.default_rng([seed, 1])
    return {
        layer.name: (_normal(random, layer.outputs, layer.inputs), _normal(random, layer.outputs)) for layer in TABLE
    }


def split_values(values: Array, head: str) -> dict[str, LayerValues]:
    """Cut what a head emits for one device into the arrays of every layer."""
    split, position = {}, 0
    for layer in TABLE:
        weights = {"factors": (RANK * layer.outputs, RANK * layer.inputs), "full": (layer.outputs * layer.inputs,)}[
            head
        ]
        sizes = (*weights, layer.outputs)
        arrays = np.split(values[position : position + sum(sizes)], np.cumsum(sizes)[:-1])
        position += sum(sizes)
        split[layer.name] = (
            LayerValues(left=arrays[0].reshape(RANK, -1), right=arrays[1].reshape(RANK, -1), shift=arrays[2])
            if head == "factors"
            else LayerValues(weight=arrays[0].reshape(layer.outputs, layer.inputs), shift=arrays[1])
        )
    return split


def _generator(
    random: np.random.Generator, shared: dict[str, tuple[Array, Array]], heads: Sequence[str]
) -> dict[str, Array]:
    sizes = {
        "factors": sum(RANK * (layer.outputs + layer.inputs) + layer.outputs for layer in TABLE),
        "full": sum(layer.outputs * (layer.inputs + 1) for layer in TABLE),
    }
    tensors = {}
    for head in heads:
        tensors[f"{head}.weight"] = _normal(random, sizes[head], EMBEDDING)
        tensors[f"{head}.bias"] = _normal(random, sizes[head])
    for name, (weight, bias) in shared.items():
        tensors[f"shared.{name}.weight"], tensors[f"shared.{name}.bias"] = weight, bias
    return tensors


def _encoder(random: np.random.Generator) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "items"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "projection"], ["projected"]),
        helper.make_node("Tanh", ["projected"], ["embedding"]),
    ]
    weights = {"table": _table(random), "projection": _normal(random, FEATURES, EMBEDDING)}
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", EMBEDDING])
    return _model(nodes, weights, output)


def _device(random: np.random.Generator, shared: dict[str, tuple[Array, Array]]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "items"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["mean", "dyn.hidden.weight", "dyn.hidden.bias"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "dyn.output.weight", "dyn.output.bias"], ["scores"], transB=1),
    ]
    dynamic = {}
    for name, (weight, bias) in shared.items():
        dynamic[f"dyn.{name}.weight"], dynamic[f"dyn.{name}.bias"] = weight, bias
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", len(ITEM_IDS)])
    model = _model(nodes, {"table": _table(random)} | dynamic, output, overridable=dynamic)
    metadata = {"vocabulary": VOCABULARY.to_json(), "signature": SIGNATURE.to_json(), "layers": TABLE.to_json()}
    described = {f"duet.{name}": json.dumps(value) for name, value in metadata.items()}
    helper.set_model_props(model, described | {"duet.shared": encode_shared(shared, TABLE)})
    return model


def _model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Array],
    output: onnx.ValueInfoProto,
    *,
    overridable: Sequence[str] | dict[str, Array] = (),
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("items", TensorProto.INT64, ["B", LENGTH])]
    # an initializer that is also an input is a default that a session may override
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, weights[name].shape) for name in overridable]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=OPSET, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _golden(
    random: np.random.Generator,
    encoder: onnx.ModelProto,
    device: onnx.ModelProto,
    tensors: dict[str, Array],
    shared: dict[str, tuple[Array, Array]],
) -> dict[str, NDArray[np.generic]]:
    items = np.zeros((4, LENGTH), np.int64)
    for row, count in enumerate((1, 3, LENGTH, LENGTH)):
        items[row, :count] = random.integers(1, len(ITEM_IDS) + 1, count)
    (embeddings,) = _session(encoder).run(["embedding"], {"items": items})
    golden: dict[str, NDArray[np.generic]] = {"input.items": items, "output.embedding": embeddings}
    for head in ("factors", "full"):
        if f"{head}.weight" in tensors:
            golden[f"output.{head}"] = embeddings @ tensors[f"{head}.weight"].T + tensors[f"{head}.bias"]
    session = _session(device)
    rows = zip(items, golden["output.factors"], strict=True)
    scores = [session.run(["scores"], {"items": row[None], **_applied(values, shared)})[0][0] for row, values in rows]
    return golden | {"output.scores": np.stack(scores)}


def _applied(values: Array, shared: dict[str, tuple[Array, Array]]) -> dict[str, Array]:
    feed = {}
    for name, layer in split_values(values, "factors").items():
        weight, bias = shared[name]
        feed[f"dyn.{name}.weight"], feed[f"dyn.{name}.bias"] = weight + layer.left.T @ layer.right, bias + layer.shift
    return feed


def _records(heads: Sequence[str], quality: Mapping[str, float], *, decoders: bool) -> list[RepresentationRecord]:
    """Every representation; quality grows with rank and precision, and the full head is the best.

    An embedding leads to what whole factors lead to.
    """
    precision = {Dtype.INT8: 0.0, Dtype.FLOAT16: 0.002, Dtype.FLOAT32: 0.003}
    values = {SHARED: 0.1}
    for dtype, gain in precision.items():
        for rank in range(1, RANK + 1):
            values[Representation(Form.FACTORS, dtype, rank)] = 0.2 + rank / 100 + gain
        values[Representation(Form.COMPOSED, dtype, RANK)] = 0.2 + RANK / 100 + gain
        if "full" in heads:
            values[Representation(Form.FULL, dtype)] = 0.25 + gain
        if decoders and dtype is not Dtype.INT8:
            values[Representation(Form.EMBEDDING, dtype)] = 0.2 + RANK / 100 + gain
    values |= {Representation.parse(name): value for name, value in quality.items()}
    return [
        RepresentationRecord(
            representation,
            replace(TABLE, embedding_dim=EMBEDDING).package_bytes(representation),
            Quality("ndcg@10", "validation", value, (value - 0.01, value + 0.01)),
        )
        for representation, value in values.items()
    ]


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of overridable initializers, which are the point here
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _table(random: np.random.Generator) -> Array:
    table = _normal(random, len(ITEM_IDS) + 1, FEATURES)
    table[0] = 0  # padding
    return table


def _normal(random: np.random.Generator, *shape: int) -> Array:
    return random.normal(0, 0.5, shape).astype(np.float32)
