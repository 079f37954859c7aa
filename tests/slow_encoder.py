"""An encoder that takes long to say what it says anyway, as one that has grown too large for its budgets does."""

import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from deployments.version_checks import open_session
from duet.protocol.embedding_upload import ENCODER_FILE, ENCODER_OUTPUT
from tests.published_version import LENGTH


def slow_down(folder: Path, *, steps: int = 100_000) -> None:
    """Have the encoder of a version count to ``steps`` before it answers; what it answers stays the same.

    Args:
        folder: Of the version, before its files are hashed.
        steps: Some microseconds each.
    """
    model = onnx.load(folder / ENCODER_FILE)
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["early" if name == ENCODER_OUTPUT else name for name in node.output]
    # the sum of what is embedded goes in, so that nothing can be worked out beforehand; times 0 it comes out
    graph.node.extend(
        [
            helper.make_node("ReduceSum", ["early"], ["start"], keepdims=0),
            helper.make_node("Loop", ["steps", "", "start"], ["end"], body=_step()),
            helper.make_node("Mul", ["end", "nothing"], ["zero"]),
            helper.make_node("Add", ["early", "zero"], [ENCODER_OUTPUT]),
        ]
    )
    graph.initializer.extend(
        [
            helper.make_tensor("steps", TensorProto.INT64, [], [steps]),
            helper.make_tensor("nothing", TensorProto.FLOAT, [], [0.0]),
        ]
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / ENCODER_FILE)


def encoding_ms(folder: Path) -> float:
    """Measure how long the encoder of a version takes here for one device: the least of three times."""
    session = open_session(folder / ENCODER_FILE)
    took_s = []
    for _ in range(3):
        started_s = time.perf_counter()
        session.run([ENCODER_OUTPUT], {"items": np.ones((1, LENGTH), np.int64)})
        took_s.append(time.perf_counter() - started_s)
    return 1000 * min(took_s)


def _step() -> onnx.GraphProto:
    number, truth = TensorProto.FLOAT, TensorProto.BOOL
    return helper.make_graph(
        [helper.make_node("Sin", ["before"], ["after"]), helper.make_node("Identity", ["goes_on"], ["still_goes_on"])],
        "step",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", truth, []),
            helper.make_tensor_value_info("before", number, []),
        ],
        [helper.make_tensor_value_info("still_goes_on", truth, []), helper.make_tensor_value_info("after", number, [])],
    )
