"""A batch of samples and of embeddings is embedded in order, and no embedding meets the encoder."""

from collections.abc import Sequence

import numpy as np
import pytest

from deployments.device_embeddings import DeviceEmbedding, Embeddings, embeddings_of, ready_embeddings

GIVEN = DeviceEmbedding(np.array([0.5, -2], "<f2").tobytes())
OTHER = DeviceEmbedding(np.array([3, 65504], "<f2").tobytes())


class Encoding:
    """Embeds the sample ``n`` as ``[n, n]``, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[object]] = []

    def __call__(self, samples: Sequence[object]) -> Embeddings:
        self.asked.append(list(samples))
        return np.repeat(np.array(samples, np.float32)[:, None], 2, axis=1)


@pytest.mark.parametrize(
    ("inputs", "embeddings", "asked"),
    [
        ([1, 2], [[1, 1], [2, 2]], [[1, 2]]),
        ([GIVEN], [[0.5, -2]], []),
        ([OTHER, GIVEN], [[3, 65504], [0.5, -2]], []),
        ([1, GIVEN, 2, OTHER], [[1, 1], [0.5, -2], [2, 2], [3, 65504]], [[1, 2]]),
        ([GIVEN, 1], [[0.5, -2], [1, 1]], [[1]]),
    ],
)
def test_every_input_gets_its_own_row(inputs: list[object], embeddings: list[object], asked: list[object]) -> None:
    encode = Encoding()

    rows = embeddings_of(inputs, encode)

    assert (rows.dtype, rows.flags.c_contiguous, rows.flags.writeable) == (np.float32, True, True)
    assert rows.tolist() == embeddings
    assert encode.asked == asked


def test_a_batch_is_ready_when_nothing_in_it_is_left_to_encode() -> None:
    ready = ready_embeddings([OTHER, GIVEN])

    assert ready is not None
    assert ready.tolist() == [[3, 65504], [0.5, -2]]
    assert ready_embeddings([OTHER, 1]) is None
