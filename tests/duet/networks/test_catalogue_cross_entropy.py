"""The loss that keeps no logits equals the one that does, in value and in gradients."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from duet.networks.catalogue_cross_entropy import CHUNK, catalogue_cross_entropy

ITEMS, WIDTH = 37, 5


def _operands(rows, dtype=torch.float64):
    torch.manual_seed(rows)
    users = torch.randn(rows, WIDTH, dtype=dtype, requires_grad=True)
    items = torch.randn(ITEMS, WIDTH, dtype=dtype, requires_grad=True)
    return users, items, torch.randint(0, ITEMS, (rows,))


@pytest.mark.parametrize("rows", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - 7])
def test_value_and_gradients_equal_those_of_torch(rows):
    users, items, targets = _operands(rows)
    expected = cross_entropy(users @ items.T, targets)
    expected_gradients = torch.autograd.grad(3 * expected, (users, items))

    loss = catalogue_cross_entropy(users, items, targets)

    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(3 * loss, (users, items))
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    users, items, targets = _operands(4)

    assert torch.autograd.gradcheck(lambda *operands: catalogue_cross_entropy(*operands, targets), (users, items))


def test_every_place_that_memory_is_reused_for_is_written(poisoned_memory):
    users, items, targets = _operands(CHUNK + 3)

    loss = catalogue_cross_entropy(users, items, targets)
    gradients = torch.autograd.grad(loss, (users, items))

    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("size", [100.0, 1e4], ids=["large", "huge"])
def test_large_logits_do_not_overflow(size):
    users, items, targets = _operands(10, torch.float32)

    loss = catalogue_cross_entropy(size * users, items, targets)

    torch.testing.assert_close(loss, cross_entropy(size * users @ items.T, targets))
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (users, items)))


def test_the_item_vectors_may_be_a_view_without_the_padding_row():
    users, _, targets = _operands(9)
    table = torch.randn(ITEMS + 1, WIDTH, dtype=torch.float64, requires_grad=True)

    catalogue_cross_entropy(users, table[1:], targets).backward()

    assert not table.grad[0].any()
    assert table.grad[1:].any(dim=1).all()


def test_a_logit_that_is_not_a_number_is_not_hidden():
    users, items, targets = _operands(3)
    with torch.no_grad():
        users[1, 0] = torch.nan

    assert catalogue_cross_entropy(users, items, targets).isnan()


def test_items_that_are_frozen_get_no_gradient_and_users_the_same():
    users, items, targets = _operands(CHUNK + 3)
    (expected,) = torch.autograd.grad(catalogue_cross_entropy(users, items, targets), users)

    loss = catalogue_cross_entropy(users, items.detach(), targets)
    saved = loss.grad_fn.saved_tensors
    loss.backward()

    assert torch.equal(users.grad, expected)
    assert saved[1] is None
