"""Item vectors: how they start, and what the backbones share that score by a dot product with them.

    score(i) = classify(state) . vector(i)

The classifier of those is the DUET paper's: two dynamic layers ``width -> width`` with tanh between.

Shapes: n positions, C candidates, N catalogue items, W width.
"""

import torch
from torch import Tensor, nn

from duet.protocol.layers import DynamicLayer


def initialise_vectors(table: nn.Embedding) -> None:
    """Draw vectors of length about 1; row 0 of a table with padding is zero, and training keeps it."""
    nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)
    if table.padding_idx is not None:
        with torch.no_grad():
            table.weight[table.padding_idx].zero_()


def dot_product_layers(width: int) -> tuple[DynamicLayer, ...]:
    """Return the two dynamic layers ``width -> width``."""
    return (DynamicLayer("classifier.0", width, width), DynamicLayer("classifier.1", width, width))


def dot_product_scores(users: Tensor, table: Tensor, candidates: Tensor | None) -> Tensor:
    """Return logits ``[n, C]``, or ``[n, N]`` without candidates.

    Args:
        users: Output of the classifier, ``[n, W]``.
        table: Item vectors, ``[1 + N, W]``.
        candidates: Catalogue indices ``[n, C]`` or ``[C]``, or None for the whole catalogue.
    """
    if candidates is None:
        # the padding row is cut off the scores, not off the table: the exported graph then holds the table once
        return (users @ table.T)[:, 1:]
    vectors = nn.functional.embedding(candidates, table, padding_idx=0)
    return users @ vectors.T if candidates.dim() == 1 else torch.einsum("nd,ncd->nc", users, vectors)
