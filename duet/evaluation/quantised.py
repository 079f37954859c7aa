"""Ranks on devices whose parameters went through the bytes of a package: what a smaller dtype costs in quality.

The same trained run, quantised as the server does it; nothing is trained again.

Shapes: U users, T sample length, P flat values, M output and K input features of a layer.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from duet.evaluation.representations import Generated, sent_package
from duet.networks.duet_network import SHARED, DuetNetwork, Served
from duet.networks.dynamic_layer import FullRank
from duet.networks.export import shared_parameters
from duet.protocol.representation import Dtype, Form, Representation
from duet.training.ranking import Questions, Ranks, rank_conditioned
from kernels.synthesize_factors import synthesize_factors


def rank_quantised(
    network: DuetNetwork, questions: Questions, embeddings: Tensor, served: Served, dtype: Dtype
) -> Ranks:
    """Rank the held-out items with parameters that arrived as a package of a dtype.

    Args:
        network: Generates factors or whole residuals, in evaluation mode.
        questions: The questions.
        embeddings: What the parameters are generated from, ``[U, D]``.
        served: Which of its heads, at which rank.
        dtype: What the package holds.
    """
    head = served.head
    assert head in ("factors", "full")
    representation = Representation(Form[head.upper()], dtype, served.rank)
    with torch.inference_mode():
        values = synthesize_factors(embeddings, *network.generator.fold(head)).numpy()
    generated = Generated(network.meta.table, network.sizes.rank, {head: values})
    shared = shared_parameters(network)

    def condition(rows: slice, samples: Tensor, positions: Tensor) -> tuple[Tensor, Sequence[FullRank]]:
        states, _ = network.condition(samples, positions, SHARED)
        users = range(*rows.indices(len(values)))
        held = [sent_package(generated, user, representation, shared).compose(shared) for user in users]
        return states, [
            FullRank(*(_added(held, layer.name, place, shared[layer.name][place]) for place in (0, 1)))
            for layer in network.meta.table
        ]

    return rank_conditioned(network, questions, condition)


def _added(
    held: Sequence[dict[str, tuple[np.ndarray, np.ndarray]]], name: str, place: int, shared: np.ndarray
) -> Tensor:
    """Return what weights ``[U, M, K]`` or biases ``[U, M]`` of a layer differ from the shared ones by."""
    return torch.from_numpy(np.stack([parameters[name][place] for parameters in held]) - shared)
