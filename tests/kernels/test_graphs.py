"""Captured generation equals the two operations it captures, whatever the size of the batch."""

import numpy as np
import pytest
import torch

from kernels import CapturedGeneration, Plans, compose_weights, synthesize_factors
from kernels.graphs import LARGEST_BUCKET
from tests.kernels.ragged_layouts import compose_layout, slab_layout

D = 16


def operands(device):
    torch.manual_seed(0)
    plans = Plans([compose_layout([(33, 65, 4, "int8")]), slab_layout([(4, 33, "float16")], spare_bytes=5)])
    weight, bias = torch.randn(plans.required_values, D), torch.randn(plans.required_values)
    return [tensor.to(device) for tensor in (weight, bias, torch.randn(plans.required_base))], plans


def test_weights_on_a_host_are_refused():
    tensors, plans = operands("cpu")

    with pytest.raises(ValueError, match="on a CUDA accelerator, got them on cpu"):
        CapturedGeneration(*tensors, plans)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, 2, 3, 64, LARGEST_BUCKET, 3 * LARGEST_BUCKET + 5])
def test_a_replayed_batch_is_what_the_operations_give(size):
    (weight, bias, base), plans = operands("cuda")
    captured = CapturedGeneration(weight, bias, base, plans)
    captured.warm_up([1, size])

    for seed in range(3):
        embeddings = np.random.default_rng(seed).normal(size=(size, D)).astype(np.float32)
        embeddings[size // 2, 0] = np.nan if seed == 2 else embeddings[size // 2, 0]
        chosen = [(seed + row) % 2 for row in range(size)]

        bodies = captured.generate(embeddings, chosen)

        values = synthesize_factors(torch.from_numpy(embeddings).cuda(), weight, bias)
        expected = compose_weights(values, base, plans, chosen).bodies()
        assert [body is None for body in bodies] == [body is None for body in expected]
        assert (bodies[size // 2] is None) == (seed == 2)
        for body, other in zip(bodies, expected, strict=True):
            if body is not None and other is not None:
                difference = np.frombuffer(body, np.uint8).astype(int) - np.frombuffer(other, np.uint8)
                # a product rounds by the size of its batch
                assert np.mean(difference != 0) < 0.05
