"""Generation bound to its operands equals the two operations."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import HostGeneration, Plans, compose_weights, synthesize_factors
from tests.kernels.ragged_layouts import compose_layout, slab_layout

D = 16
WHOLE = slab_layout([(3, 5, "float32")], start=9)
LAYOUTS = [
    compose_layout([(33, 65, 4, "int8"), (3, 1, 0, "float16")]),
    slab_layout([(4, 33, "float16"), (2, 7, "int8")], spare_bytes=5),
    WHOLE,
]


def operands(plans):
    torch.manual_seed(0)
    return torch.randn(plans.required_values, D), torch.randn(plans.required_values), torch.randn(plans.required_base)


@given(st.lists(st.integers(0, len(LAYOUTS) - 1), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_a_batch_of_any_plans_is_what_the_operations_write(chosen, seed):
    plans = Plans(LAYOUTS)
    weight, bias, base = operands(plans)
    embeddings = np.random.default_rng(seed).normal(size=(len(chosen), D)).astype(np.float32)
    embeddings[seed % len(chosen), 0] = np.nan if seed % 2 else 1.0

    bodies = HostGeneration(weight, bias, base, plans).generate(embeddings, chosen)

    values = synthesize_factors(torch.from_numpy(embeddings), weight, bias)
    for plan, body, other in zip(chosen, bodies, compose_weights(values, base, plans, chosen).bodies(), strict=True):
        assert (body is None) == (other is None)
        if body is not None and other is not None and plan == LAYOUTS.index(WHOLE):
            one, two = (np.frombuffer(numbers, np.float32) for numbers in (body, other))
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
        elif body is not None and other is not None:
            # a product rounds by the order of its sum, and a quantum may fall to the other side
            assert np.mean(np.frombuffer(body, np.uint8) != np.frombuffer(other, np.uint8)) < 0.05
    assert [body is None for body in bodies] == [
        bool(seed % 2) and row == seed % len(chosen) for row in range(len(chosen))
    ]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("largest", [0, 1 << 22], ids=["blas", "own"])
@pytest.mark.parametrize(("B", "width"), [(1, 1), (2, 33), (3, 7), (4, 16), (5, 16), (11, 2)])
def test_values_are_as_exact_as_the_sum_of_their_products_can_be(B, width, largest, monkeypatch, two_threads):
    torch.manual_seed(0)
    monkeypatch.setattr(sys.modules["kernels.host_generation"], "SMALL_PRODUCT", largest)
    plans = Plans([slab_layout([(3, 41, "float32")])])
    weight, bias = torch.randn(plans.required_values, width), torch.randn(plans.required_values)
    embeddings = torch.randn(B, 2 * width)[:, ::2]

    bodies = HostGeneration(weight, bias, torch.empty(0), plans).generate(embeddings.numpy(), [0] * B)

    exact = embeddings.double() @ weight.double().T + bias
    magnitudes = embeddings.double().abs() @ weight.double().abs().T + bias.abs()
    values = torch.frombuffer(bytearray(b"".join(bodies)), dtype=torch.float32).view(B, -1)[:, : 3 * 41]
    assert ((values - exact).abs() <= (width + 1) * torch.finfo(torch.float32).eps * magnitudes).all()


@pytest.mark.parametrize("count", [1, 15, 16, 17, 41])
def test_a_device_gets_the_same_bits_in_every_batch(count):
    plans = Plans([slab_layout([(1, count, "float32")])])
    torch.manual_seed(0)
    weight, bias = torch.randn(plans.required_values, D), torch.randn(plans.required_values)
    generation = HostGeneration(weight, bias, torch.empty(0), plans)
    embeddings = np.random.default_rng(0).normal(size=(9, D)).astype(np.float32)

    together = generation.generate(embeddings, [0] * 9)

    assert together == [generation.generate(embeddings[row : row + 1], [0])[0] for row in range(9)]
    assert together[:3] == generation.generate(embeddings[:3], [0] * 3)


def test_no_device_is_no_body():
    plans = Plans(LAYOUTS)

    assert HostGeneration(*operands(plans), plans).generate(np.empty((0, D), np.float32), []) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weight", torch.Tensor.double),
        ("bias", lambda bias: bias.repeat(2)[::2]),
        ("base", lambda base: base.to("meta")),
        ("bias", lambda bias: bias[:-1]),
        ("base", lambda base: base[:-1]),
    ],
    ids=["dtype", "strided", "elsewhere", "short-bias", "short-base"],
)
def test_operands_that_the_library_cannot_read_are_refused(name, change):
    plans = Plans(LAYOUTS)
    given_operands = dict(zip(("weight", "bias", "base"), operands(plans), strict=True))
    given_operands[name] = change(given_operands[name])

    with pytest.raises(ValueError, match=name):
        HostGeneration(**given_operands, plans=plans)


@pytest.mark.parametrize("chosen", [[0], [0, 3], [0, -1]], ids=["too-few", "unknown", "negative"])
def test_plans_that_are_not_there_are_refused(chosen):
    plans = Plans(LAYOUTS)

    with pytest.raises(ValueError, match="plans among 0 to 2"):
        HostGeneration(*operands(plans), plans).generate(np.zeros((2, D), np.float32), chosen)


@pytest.mark.parametrize("shape", [(2, D + 1), (2, D, 1)])
def test_embeddings_of_another_shape_are_refused(shape):
    plans = Plans(LAYOUTS)

    with pytest.raises(ValueError, match=r"embeddings \[B, 16\]"):
        HostGeneration(*operands(plans), plans).generate(np.zeros(shape, np.float32), [0, 0])
