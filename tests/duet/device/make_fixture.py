"""Writes the graphs of fixtures/, from the top of the checkout: python -m tests.duet.device.make_fixture

The files are committed because the environment of a device has no ``onnx``.
"""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import tests.duet.device.tiny_network as tiny
from duet.protocol.device_model import encode_shared

MEAN = [
    helper.make_node("Gather", ["embeddings", "items"], ["vectors"]),
    helper.make_node("ReduceSum", ["vectors", "second"], ["total"], keepdims=0),
    helper.make_node("Greater", ["items", "zero"], ["is_item"]),
    helper.make_node("Cast", ["is_item"], ["mask"], to=TensorProto.FLOAT),
    helper.make_node("ReduceSum", ["mask", "last"], ["count"], keepdims=1),
    helper.make_node("Div", ["total", "count"], ["mean"]),
]
CONSTANTS = {"embeddings": tiny.EMBEDDINGS, "zero": np.array(0), "second": np.array([1]), "last": np.array([-1])}


def make_encoder(version: str) -> onnx.ModelProto:
    """Return the encoder of a version; the same on every call."""
    graph = helper.make_graph(
        [*MEAN, helper.make_node("MatMul", ["mean", "projection"], ["embedding"])],
        "encoder",
        [helper.make_tensor_value_info("items", TensorProto.INT64, ["B", tiny.SIGNATURE.length])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", 4])],
        [
            numpy_helper.from_array(array, name)
            for name, array in {**CONSTANTS, "projection": tiny.ENCODERS[version]}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def make_device_model() -> onnx.ModelProto:
    """Return the model; the same on every call."""
    constants = {"embeddings": tiny.EMBEDDINGS, "item_vectors": tiny.ITEM_VECTORS} | CONSTANTS
    weights = {
        f"dyn.{name}.{role}": array
        for name, pair in tiny.SHARED.items()
        for role, array in zip(("weight", "bias"), pair, strict=True)
    }
    nodes = [
        *MEAN,
        helper.make_node("Gemm", ["mean", "dyn.hidden.weight", "dyn.hidden.bias"], ["linear"], transB=1),
        helper.make_node("Relu", ["linear"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "dyn.output.weight", "dyn.output.bias"], ["taste"], transB=1),
        helper.make_node("Gemm", ["taste", "item_vectors"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "device",
        [
            helper.make_tensor_value_info("items", TensorProto.INT64, ["B", tiny.SIGNATURE.length]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in weights.items()),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", len(tiny.VOCABULARY)])],
        [numpy_helper.from_array(array, name) for name, array in {**constants, **weights}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    metadata = {
        "duet.layers": json.dumps(tiny.TABLE.to_json()),
        "duet.signature": json.dumps(tiny.SIGNATURE.to_json()),
        "duet.vocabulary": json.dumps(tiny.VOCABULARY.to_json()),
        "duet.shared": encode_shared(tiny.SHARED, tiny.TABLE),
    }
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    tiny.FIXTURE.parent.mkdir(exist_ok=True)
    tiny.FIXTURE.write_bytes(make_device_model().SerializeToString())
    for name, path in tiny.ENCODER_FIXTURES.items():
        path.write_bytes(make_encoder(name).SerializeToString())
