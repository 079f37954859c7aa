"""From the folded generator to ``decoders.onnx``: from an embedding to finished parameters, on the device.

    values = weight @ embedding + bias                          [P], the affine map of one head
    weight_n = shared_n + left_n.T @ right_n, or + residual_n   [M, K]
    bias_n = shared bias_n + shift_n                            [M]

Shapes: D embedding, P flat values of a head, M and K features of a layer, R rank.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from duet.networks.export import OPSET
from duet.networks.personalized_parameters_generator import Head, head_segments
from duet.protocol.decoders import DECODERS_INPUT
from duet.protocol.device_model import weight_inputs
from duet.protocol.layers import LayerTable

_IR_VERSION = 10


def export_decoders(tensors: Mapping[str, Tensor], table: LayerTable, head: Head, rank: int) -> bytes:
    """Export the decoders of one head.

    Args:
        tensors: Of ``generator.safetensors``: ``<head>.weight`` ``[P, D]``, ``<head>.bias`` ``[P]``, and the shared
            parameters.
        table: The dynamic layers.
        head: Whose.
        rank: ``R``, used by the factors head only.
    """
    weight, bias = tensors[f"{head}.weight"].numpy(), tensors[f"{head}.bias"].numpy()
    segments = head_segments(table, head, rank)
    sizes = np.array([segment.size for segment in segments], np.int64)
    constants: dict[str, NDArray[np.generic]] = {"decoders": weight, "offsets": bias, "sizes": sizes}
    flat = [f"{segment.layer}.{segment.role}" for segment in segments]
    nodes = [
        helper.make_node("MatMul", ["decoders", DECODERS_INPUT], ["products"]),
        helper.make_node("Add", ["products", "offsets"], ["values"]),
        helper.make_node("Split", ["values", "sizes"], flat, axis=0),
    ]
    for segment, name in zip(segments, flat, strict=True):
        if segment.role != "shift":
            constants[f"{name}.shape"] = np.array([segment.rows, segment.columns], np.int64)
            nodes.append(helper.make_node("Reshape", [name, f"{name}.shape"], [f"{name}.matrix"]))
    outputs = []
    for index, layer in enumerate(table.layers):
        constants[f"{index}.weight"] = tensors[f"shared.{layer.name}.weight"].numpy()
        constants[f"{index}.bias"] = tensors[f"shared.{layer.name}.bias"].numpy()
        residual = f"{index}.residual.matrix"
        if head == "factors":
            residual = f"{index}.product"
            nodes.append(helper.make_node("Transpose", [f"{index}.left.matrix"], [f"{index}.left.turned"], perm=[1, 0]))
            nodes.append(helper.make_node("MatMul", [f"{index}.left.turned", f"{index}.right.matrix"], [residual]))
        names = weight_inputs(layer)
        nodes.append(helper.make_node("Add", [f"{index}.weight", residual], [names[0]]))
        nodes.append(helper.make_node("Add", [f"{index}.bias", f"{index}.shift"], [names[1]]))
        for name, shape in zip(names, ([layer.outputs, layer.inputs], [layer.outputs]), strict=True):
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "decoders",
        [helper.make_tensor_value_info(DECODERS_INPUT, TensorProto.FLOAT, [weight.shape[1]])],
        outputs,
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
