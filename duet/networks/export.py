"""From trained networks to the files of a version: ``device.onnx``, ``encoder.onnx``, the folded generator.

Shapes: B devices, T sample length, D embedding, M and K features of a layer, N catalogue items.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from duet.networks.duet_network import DuetNetwork
from duet.networks.dynamic_layer import Between
from duet.networks.sample_encoder import embed_samples
from duet.networks.universal_meta_network import UniversalMetaNetwork
from duet.protocol.device_model import (
    LAYERS_KEY,
    SCORES,
    SHARED_KEY,
    SIGNATURE_KEY,
    VOCABULARY_KEY,
    Parameters,
    encode_shared,
    weight_inputs,
)
from duet.protocol.signature import Signature, Vocabulary

OPSET = 20
_OUTPUT = "duet_output"


def export_device_model(network: DuetNetwork, signature: Signature, vocabulary: Vocabulary) -> bytes:
    """Export what a device runs: sample ``[B, T]`` and the dynamic layers' parameters to scores ``[B, N]``.

    The signature is the device model's own: its T may be shorter than that of a request.

    Every dynamic layer has two overridable initializers, ``dyn.<layer>.weight`` and ``dyn.<layer>.bias``, whose
    defaults are the shared parameters; the metadata are those of :mod:`duet.protocol.device_model`.
    """
    table = network.meta.table
    shared = shared_parameters(network)
    names = [name for layer in table.layers for name in weight_inputs(layer)]
    values = [torch.from_numpy(array) for layer in table.layers for array in shared[layer.name]]
    (sample,) = signature.input_names
    batch = torch.export.Dim("batch")
    model = _export(
        _DeviceGraph(network.meta),
        (torch.from_numpy(signature.blank(2)[sample]), values),
        inputs=[sample, *names],
        output=SCORES,
        dynamic=({0: batch}, [None for _ in values]),
    )
    for name, value in zip(names, values, strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.numpy(), name))
    onnx.helper.set_model_props(
        model,
        {
            LAYERS_KEY: json.dumps(table.to_json()),
            SIGNATURE_KEY: json.dumps(signature.to_json()),
            VOCABULARY_KEY: json.dumps(vocabulary.to_json(), ensure_ascii=False),
            SHARED_KEY: encode_shared(shared, table),
        },
    )
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def export_encoder(network: DuetNetwork, signature: Signature) -> bytes:
    """Export the sample encoder: sample ``[B, T]`` to embedding ``[B, D]`` of its newest position."""
    (sample,) = signature.input_names
    model = _export(
        _EncoderGraph(network),
        (torch.from_numpy(signature.blank(2)[sample]),),
        inputs=[sample],
        output="embedding",
        dynamic=({0: torch.export.Dim("batch")},),
    )
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def shared_parameters(network: DuetNetwork) -> Parameters:
    """Return weight ``[M, K]`` and bias ``[M]`` of the shared classifier, by layer name."""
    classifier = network.meta.classifier
    return {
        layer.name: (module.weight.detach().numpy(), module.bias.detach().numpy())  # type: ignore[operator]
        for layer, module in zip(classifier.table.layers, classifier.layers, strict=True)
    }


def generator_tensors(network: DuetNetwork) -> dict[str, Tensor]:
    """Return what ``generator.safetensors`` holds: an affine map a head (folded), and the shared parameters."""
    tensors: dict[str, Tensor] = {}
    with torch.no_grad():
        for head in network.generator.heads:
            weight, bias = network.generator.fold(head)
            tensors |= {f"{head}.weight": weight.contiguous().clone(), f"{head}.bias": bias.contiguous().clone()}
    for name, (weight_array, bias_array) in shared_parameters(network).items():
        tensors |= {
            f"shared.{name}.weight": torch.from_numpy(weight_array).clone(),
            f"shared.{name}.bias": torch.from_numpy(bias_array).clone(),
        }
    return tensors


class _DeviceGraph(nn.Module):
    def __init__(self, meta: UniversalMetaNetwork) -> None:
        super().__init__()
        self.backbone, self.table = meta.backbone, meta.table

    def forward(self, sample: Tensor, parameters: list[Tensor]) -> Tensor:
        state = _newest(self.backbone.encode(sample), sample)

        def classify(x: Tensor, between: Between = torch.tanh) -> Tensor:
            for index in range(len(self.table.layers)):
                x = x if index == 0 else between(x)
                x = nn.functional.linear(x, parameters[2 * index], parameters[2 * index + 1])
            return x

        return self.backbone.scores(state, classify)


class _EncoderGraph(nn.Module):
    def __init__(self, network: DuetNetwork) -> None:
        super().__init__()
        self.backbone, self.encoder = network.meta.backbone, network.encoder

    def forward(self, sample: Tensor) -> Tensor:
        return _newest(embed_samples(self.encoder, self.backbone, sample), sample)


def _newest(values: Tensor, sample: Tensor) -> Tensor:
    """Select the values ``[B, T, W]`` of the last item of each sample ``[B, T]``; tensors have no padding."""
    if sample.dim() > 2:
        return values[:, -1]
    last = (sample != 0).sum(dim=1).clamp(min=1) - 1
    return values.gather(1, last[:, None, None].expand(-1, 1, values.shape[2])).squeeze(1)


def _export(
    graph: nn.Module,
    arguments: tuple[Tensor | list[Tensor], ...],
    *,
    inputs: list[str],
    output: str,
    dynamic: tuple[object, ...],
) -> onnx.ModelProto:
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            arguments,
            dynamo=True,
            input_names=inputs,
            output_names=[_OUTPUT],
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program.")
    model = program.model_proto
    # the exporter names inner values after operators, and an operator may be called what our output is called
    _rename(model.graph, output, f"{output}_inner")
    _rename(model.graph, _OUTPUT, output)
    for node in model.graph.node:
        # names of modules and paths of this machine: nobody else's business, and larger than the graph
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    return model


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.output, *graph.value_info, *graph.initializer):
        value.name = new if value.name == old else value.name


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notices about packages and internals that are not ours off the user's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


__all__ = ["export_device_model", "export_encoder", "generator_tensors", "shared_parameters"]
