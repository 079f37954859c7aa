"""Embeddings that devices have made of their samples: they stand among the samples of a batch and pass the encoder by.

Shapes: B batch of devices, D embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DeviceEmbedding:
    """One, as the gateway has checked it."""

    content: bytes
    """``[D]`` float16, little-endian, finite."""


def embeddings_of(inputs: Sequence[object], encode: Callable[[Sequence[object]], Embeddings]) -> Embeddings:
    """Embed those inputs that are samples, in one batch, and put the others in their places.

    Args:
        inputs: Samples and ``DeviceEmbedding``, all of one version.
        encode: Embeds samples, one or more.

    Returns:
        ``[B, D]`` float32, in order.
    """
    given = [place for place, each in enumerate(inputs) if isinstance(each, DeviceEmbedding)]
    if not given:
        return encode(inputs)
    ready = _stacked([inputs[place] for place in given])
    if len(given) == len(inputs):
        return ready
    encoded = [place for place, each in enumerate(inputs) if not isinstance(each, DeviceEmbedding)]
    embeddings = np.empty((len(inputs), ready.shape[1]), np.float32)
    embeddings[given] = ready
    embeddings[encoded] = encode([inputs[place] for place in encoded])
    return embeddings


def ready_embeddings(inputs: Sequence[object]) -> Embeddings | None:
    """Return the embeddings ``[B, D]`` of a batch in which nothing is left to encode; None for any other."""
    if not all(isinstance(each, DeviceEmbedding) for each in inputs):
        return None
    return _stacked(inputs)


def _stacked(inputs: Sequence[object]) -> Embeddings:
    contents = [each.content for each in inputs if isinstance(each, DeviceEmbedding)]
    return np.frombuffer(b"".join(contents), "<f2").reshape(len(contents), -1).astype(np.float32)
