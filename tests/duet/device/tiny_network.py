"""The device model of these tests in numpy: its fixed numbers, and its forward pass as an oracle.

    h = relu(mean of the items' vectors @ hidden.weight^T + hidden.bias)      [B, 7]
    scores = (h @ output.weight^T + output.bias) @ item_vectors^T             [B, 24]

``make_fixture.py`` writes the same network as fixtures/device.onnx, and the encoders of two versions beside it:

    embedding = mean of the items' vectors @ ENCODERS[version]                [B, 4]

The items of a pair in ``TIES`` share their vector.
"""

from pathlib import Path

import numpy as np

from duet.protocol.layers import DynamicLayer, LayerTable
from duet.protocol.signature import SequenceSignature, Vocabulary

FIXTURE = Path(__file__).parent / "fixtures" / "device.onnx"
TABLE = LayerTable((DynamicLayer("hidden", outputs=7, inputs=8), DynamicLayer("output", outputs=6, inputs=7)))
SIGNATURE = SequenceSignature(length=5, max_items=50, item_type="integer")
VOCABULARY = Vocabulary(
    ids=tuple(range(101, 125)),
    titles=tuple(f"{genre} #{n}" for genre in ("Space opera", "Western", "Film noir") for n in range(1, 9)),
)
TIES = ((103, 106), (117, 118))

_random = np.random.default_rng(7)


def _normal(*shape: int) -> np.ndarray:
    return _random.normal(size=shape).astype(np.float32)


SHARED = {layer.name: (_normal(layer.outputs, layer.inputs) / 2, _normal(layer.outputs) / 4) for layer in TABLE}
EMBEDDINGS = _normal(len(VOCABULARY) + 1, 8)
EMBEDDINGS[0] = 0  # padding
ITEM_VECTORS = _normal(len(VOCABULARY), 6)
for _first, _second in TIES:
    ITEM_VECTORS[_second - 101] = ITEM_VECTORS[_first - 101]

ENCODERS = {
    version: np.random.default_rng(seed).normal(size=(8, 4)).astype(np.float32)
    for seed, version in ((1, "v1"), (2, "v2"))
}
ENCODER_FIXTURES = {version: FIXTURE.with_name(f"encoder-{version}.onnx") for version in ENCODERS}


def embed(sample, version="v1"):
    """Make the embedding of a sample as the encoder of a version does."""
    items = SIGNATURE.arrays([sample], VOCABULARY)["items"][0]
    return EMBEDDINGS[items].sum(axis=0) / np.float32((items > 0).sum()) @ ENCODERS[version]


def forward(sample, parameters):
    """Score every item for one sample in float64, with the given weights and biases."""
    items = SIGNATURE.arrays([sample], VOCABULARY)["items"][0]
    mean = EMBEDDINGS[items].astype(np.float64).sum(axis=0) / (items > 0).sum()
    (weight, bias), (output_weight, output_bias) = (parameters[name] for name in ("hidden", "output"))
    hidden = np.maximum(mean @ weight.T + bias, 0)
    return (hidden @ output_weight.T + output_bias) @ ITEM_VECTORS.T
