"""A layer with factors of its own a row: forward and backward against float64."""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import apply_low_rank
from tests.kernels.ragged_layouts import ACCELERATOR, BACKENDS, guarded

NAMES = ("x", "base", "bias", "left", "right", "shift")
SHAPES = {
    "smallest": (1, 1, 1, 1),
    "one-block": (32, 32, 32, 4),
    "ragged": (33, 65, 127, 3),
    "more-outputs": (5, 127, 3, 2),
    "rank-0": (3, 33, 5, 0),
    "rank-16": (7, 17, 33, 16),
    "longer-than-a-block": (3, 300, 520, 2),
}


GROUPS = {"one": (1,), "several": (5,), "none": (0,)}
"""Inputs that share the factors of a row, as a part of the shape of ``x``."""


def operand_shapes(N, M, K, R, *, group=()):
    return {"x": (N, *group, K), "base": (M, K), "bias": (M,), "left": (N, R, M), "right": (N, R, K), "shift": (N, M)}


def as_defined(x, base, bias, left, right, shift):
    """The definition, with a weight matrix for every row."""
    weights = base + left.mT @ right
    if x.dim() == 2:
        return as_defined(x[:, None], base, bias, left, right, shift)[:, 0]
    return x @ weights.mT + bias + shift[:, None]


def with_gradients(function, operands, gradient):
    operands = [operand.detach().requires_grad_() for operand in operands]
    y = function(*operands)
    return [y.detach(), *torch.autograd.grad(y, operands, gradient, allow_unused=True, materialize_grads=True)]


class LargestAllocation(TorchDispatchMode):
    """Remembers the most elements that any operation returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        returned = function(*args, **(kwargs or {}))
        for tensor in returned if isinstance(returned, tuple | list) else [returned]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return returned


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", [(), *GROUPS.values()], ids=["rows", *GROUPS.keys()])
@pytest.mark.parametrize(("N", "M", "K", "R"), SHAPES.values(), ids=SHAPES.keys())
def test_outputs_and_gradients_are_as_accurate_as_the_definition(N, M, K, R, group, backend, poisoned_memory):
    torch.manual_seed(0)
    operands = [guarded(*shape) for shape in operand_shapes(N, M, K, R, group=group).values()]
    gradient = guarded(N, *group, M)
    exact = with_gradients(as_defined, [operand.double() for operand in operands], gradient.double())
    yardstick = with_gradients(as_defined, operands, gradient)

    results = with_gradients(lambda *given: apply_low_rank(*given, backend=backend), operands, gradient)

    for name, result, plain, truth in zip(("y", *NAMES), results, yardstick, exact, strict=True):
        assert (result.shape, result.dtype) == (truth.shape, torch.float32), name
        if truth.numel():
            allowed = 2 * (plain - truth).abs().max() + 1e-6 * truth.abs().max()
            assert (result - truth).abs().max() <= allowed, name


def test_one_pass_over_few_elements_is_what_a_pass_per_rank_gives(monkeypatch):
    torch.manual_seed(0)
    operands = [torch.randn(*shape, dtype=torch.float64) for shape in operand_shapes(7, 5, 9, 3).values()]
    gradient = torch.randn(7, 5, dtype=torch.float64)
    module = sys.modules["kernels.apply_low_rank"]

    few = with_gradients(lambda *given: apply_low_rank(*given, backend="reference"), operands, gradient)
    monkeypatch.setattr(module, "FEW_ELEMENTS", 0)
    many = with_gradients(lambda *given: apply_low_rank(*given, backend="reference"), operands, gradient)

    for one, other in zip(few, many, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", [(), *GROUPS.values()], ids=["rows", *GROUPS.keys()])
@pytest.mark.parametrize("R", [0, 3], ids="R{}".format)
def test_gradients_are_those_of_finite_differences(R, group, backend):
    torch.manual_seed(0)
    shapes = operand_shapes(3, 5, 4, R, group=group).values()
    operands = [torch.randn(*shape, dtype=torch.float64, device=ACCELERATOR, requires_grad=True) for shape in shapes]

    assert torch.autograd.gradcheck(lambda *given: apply_low_rank(*given, backend=backend), operands, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", [(), (4,)], ids=["rows", "several"])
def test_factors_may_be_views_into_the_flat_values(group, backend, poisoned_memory):
    torch.manual_seed(0)
    N, M, K, R = 5, 33, 17, 3
    x, base, bias, gradient = guarded(N, *group, K), guarded(M, K), guarded(M), guarded(N, *group, M)
    sizes = [7, R * M, R * K, M]
    values = guarded(N, sum(sizes))

    def from_flat(flat):
        _, left, right, shift = flat.split(sizes, 1)
        return apply_low_rank(x, base, bias, left.view(N, R, M), right.view(N, R, K), shift, backend=backend)

    def defined(flat):
        _, left, right, shift = flat.split(sizes, 1)
        return as_defined(x, base, bias, left.reshape(N, R, M), right.reshape(N, R, K), shift)

    for result, expected in zip(
        with_gradients(from_flat, [values], gradient), with_gradients(defined, [values], gradient), strict=True
    ):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_operands_whose_last_dimension_is_strided_give_the_same(backend):
    torch.manual_seed(0)
    operands = [guarded(*shape) for shape in operand_shapes(5, 33, 17, 3).values()]
    strided = [operand.mT.contiguous().mT if operand.dim() > 1 else operand for operand in operands]
    gradient = guarded(33, 5).t()

    def apply(*given):
        return apply_low_rank(*given, backend=backend)

    for result, expected in zip(
        with_gradients(apply, strided, gradient), with_gradients(apply, operands, gradient.contiguous()), strict=True
    ):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_operands_are_summed_in_single_precision(dtype, backend):
    torch.manual_seed(0)
    operands = [guarded(*shape).to(dtype) for shape in operand_shapes(5, 33, 17, 3).values()]
    exact = as_defined(*(operand.double() for operand in operands))

    y = apply_low_rank(*operands, backend=backend)

    assert y.dtype == dtype
    assert (y - exact).abs().max() <= 8 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", [(), (4,)], ids=["rows", "several"])
def test_without_a_shift_the_bias_is_the_shared_one(group, backend):
    torch.manual_seed(0)
    shapes = operand_shapes(3, 5, 4, 2, group=group)
    x, base, bias, left, right, shift = (guarded(*shape) for shape in shapes.values())

    y = apply_low_rank(x, base, bias, left, right, backend=backend)

    expected = apply_low_rank(x, base, bias, left, right, torch.zeros_like(shift), backend=backend)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_without_rows_has_outputs_and_gradients(backend):
    operands = [torch.zeros(*shape, device=ACCELERATOR) for shape in operand_shapes(0, 5, 4, 2).values()]

    y, *gradients = with_gradients(
        lambda *given: apply_low_rank(*given, backend=backend), operands, torch.zeros(0, 5, device=ACCELERATOR)
    )

    assert y.shape == (0, 5)
    assert [gradient.shape for gradient in gradients] == [operand.shape for operand in operands]


@pytest.mark.parametrize("group", [(), (2,)], ids=["rows", "several"])
def test_no_weight_of_a_row_is_ever_built(group):
    N, M, K, R = 16, 64, 64, 2
    operands = [torch.zeros(*shape) for shape in operand_shapes(N, M, K, R, group=group).values()]

    with LargestAllocation() as largest:
        with_gradients(apply_low_rank, operands, torch.zeros(N, *group, M))

    assert largest.elements <= max(N * R * K, M * K)


def test_gradients_of_gradients_are_refused_rather_than_wrong():
    operands = [torch.ones(*shape, requires_grad=True) for shape in operand_shapes(2, 3, 4, 1).values()]
    gradient = torch.autograd.grad(apply_low_rank(*operands).square().sum(), operands[0], create_graph=True)[0]

    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("group", [(), (2,), (2, 2)], ids=["rows", "several", "too many dimensions"])
@pytest.mark.parametrize("wrong", NAMES)
def test_an_operand_of_another_shape_is_refused_with_all_shapes(wrong, group):
    shapes = operand_shapes(2, 3, 4, 1, group=group)
    shapes[wrong] = (*shapes[wrong][:-1], shapes[wrong][-1] + (len(group) < 2))

    with pytest.raises(ValueError, match=r"Expected x \[N, K\]"):
        apply_low_rank(*(torch.zeros(shape) for shape in shapes.values()))
