"""Cross-entropy over a whole catalogue without keeping the logits: computed chunk by chunk, gradients on the way.

    loss = mean over n of  logsumexp_i(users[n] . items[i]) - users[n] . items[target[n]]

Equal to ``cross_entropy(users @ items.T, targets)``, at a fraction of its memory traffic: the logits of a chunk stay in
cache.

Shapes: n positions, N catalogue items, W width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 128


class _CatalogueCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        rows = users.shape[0]
        needs_items = ctx.needs_input_grad[1]
        grad_users, grad_items = torch.empty_like(users), torch.zeros_like(items) if needs_items else None
        logits = users.new_empty(min(CHUNK, rows), items.shape[0])
        loss = users.new_zeros(())
        for start in range(0, rows, CHUNK):
            chunk, target = users[start : start + CHUNK], targets[start : start + CHUNK].unsqueeze(1)
            probabilities = torch.mm(chunk, items.t(), out=logits[: len(chunk)])
            own = probabilities.gather(1, target)
            largest = probabilities.amax(1, keepdim=True)
            total = probabilities.sub_(largest).exp_().sum(1, keepdim=True)
            loss += (total.log() + largest - own).sum()
            probabilities.div_(total)
            probabilities.scatter_add_(1, target, torch.full_like(own, -1.0))
            torch.mm(probabilities, items, out=grad_users[start : start + CHUNK])
            if grad_items is not None:
                grad_items.addmm_(probabilities.t(), chunk)
        ctx.save_for_backward(grad_users, grad_items)
        ctx.rows = rows
        return loss / rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        grad_users, grad_items = ctx.saved_tensors
        scale = gradient / ctx.rows
        return grad_users * scale, None if grad_items is None else grad_items * scale, None


def catalogue_cross_entropy(users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of targets among all items.

    Args:
        users: Output of the classifier, ``[n, W]``.
        items: Item vectors, ``[N, W]``.
        targets: Rows of ``items``, int64 ``[n]``.

    Returns:
        A scalar, differentiable once in ``users`` and ``items``.
    """
    loss: Tensor = _CatalogueCrossEntropy.apply(users, items, targets)  # type: ignore[no-untyped-call]
    return loss
