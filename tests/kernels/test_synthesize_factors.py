"""Embeddings to factors in one product, against float64."""

import pytest
import torch

from kernels import synthesize_factors


@pytest.mark.parametrize(("B", "D", "P"), [(1, 1, 1), (3, 33, 127), (64, 32, 576)], ids=["smallest", "ragged", "demo"])
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_values_are_the_linear_map_of_the_embeddings(B, D, P, backend, poisoned_memory):
    torch.manual_seed(0)
    embeddings, weight, bias = torch.randn(B, D), torch.randn(P, D), torch.randn(P)
    exact = embeddings.double() @ weight.double().T + bias.double()
    magnitude = embeddings.double().abs() @ weight.double().abs().T + bias.double().abs()

    values = synthesize_factors(embeddings, weight, bias, backend=backend)

    assert (values.shape, values.dtype, values.is_contiguous()) == ((B, P), torch.float32, True)
    assert ((values - exact).abs() <= D * torch.finfo(torch.float32).eps * magnitude).all()


def test_gradients_reach_every_operand():
    operands = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in [(3, 4), (5, 4), (5,)]]

    assert torch.autograd.gradcheck(synthesize_factors, operands)


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5), (4,)), ((2, 3), (4, 3), (5,)), ((3,), (4, 3), (4,))], ids=str)
def test_shapes_that_disagree_are_refused(shapes):
    with pytest.raises(ValueError, match="weight"):
        synthesize_factors(*(torch.zeros(shape) for shape in shapes))
