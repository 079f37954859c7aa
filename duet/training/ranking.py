"""Ranks of held-out items: full catalogue and 1 positive against 99 sampled negatives, ties at average rank.

Shapes: U users, T sample length, N catalogue items, C candidates.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from duet.data.splits import Part, Split
from duet.data.windows import evaluation_samples, last_positions
from duet.networks.duet_network import Served
from duet.networks.dynamic_layer import LayerResidual

SAMPLED_NEGATIVES = 99
CANDIDATES_SEED = 20221117


@dataclass(frozen=True)
class Ranks:
    """Rank of each user's held-out item, from 1 on, ties averaged.

    Attributes:
        full: Among the whole catalogue minus what the user has seen, ``[U]``.
        sampled: Among the item and 99 negatives, ``[U]``.
        negatives: How many negatives the sampled ranking had, ``[U]``.
    """

    full: NDArray[np.float64]
    sampled: NDArray[np.float64]
    negatives: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence["Ranks"]) -> "Ranks":
        """Return the ranks of several groups of users as one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def ndcg(self, k: int = 10, *, sampled: bool = False) -> NDArray[np.float64]:
        """Return NDCG@k per user: ``1 / log2(1 + rank)`` up to rank k, else 0."""
        rank = self.sampled if sampled else self.full
        return np.where(rank <= k, 1 / np.log2(1 + rank), 0.0)

    def hit_rate(self, k: int = 10, *, sampled: bool = False) -> NDArray[np.float64]:
        """Return HR@k per user: 1 up to rank k, else 0."""
        return ((self.sampled if sampled else self.full) <= k).astype(np.float64)

    def auc(self) -> NDArray[np.float64]:
        """Return the AUC of each user over the sampled negatives; its mean is the UAUC."""
        return 1 - (self.sampled - 1) / np.maximum(self.negatives, 1)


@dataclass(frozen=True)
class Questions:
    """Everything a ranking of held-out items needs, prepared once and asked of many networks.

    Attributes:
        samples: What each device sends, int64 ``[U, T]``.
        targets: The held-out items, int64 ``[U]``.
        seen: Per user the catalogue indices it has seen, which are not ranked.
        candidates: The held-out item and the sampled negatives, int64 ``[U, 1 + 99]``.
        negatives: How many of the candidates are true negatives, ``[U]``; a small catalogue may not have 99.
    """

    samples: NDArray[np.int64]
    targets: NDArray[np.int64]
    seen: tuple[NDArray[np.int32], ...]
    candidates: NDArray[np.int64]
    negatives: NDArray[np.int64]

    def seen_places(self, rows: slice = slice(None)) -> tuple[NDArray[np.int64], ...]:
        """Return the places in catalogue order that are not ranked, for the users in ``rows``."""
        return tuple(items.astype(np.int64) - 1 for items in self.seen[rows])

    @property
    def candidates_hash(self) -> str:
        """SHA-256 of the candidate lists: equal hashes mean comparable sampled metrics."""
        return hashlib.sha256(self.candidates.astype("<i8").tobytes()).hexdigest()[:16]


def ask(split: Split, users: NDArray[np.int64], part: Part, length: int, *, lag: int = 0) -> Questions:
    """Prepare the ranking questions of some users; candidate lists depend on the data set and the user alone."""
    item_count = split.interactions.item_count
    samples = evaluation_samples(split, users, part, length, lag=lag)
    targets = np.array([split.target(int(user), part) for user in users], np.int64)
    candidates = np.zeros((len(users), 1 + SAMPLED_NEGATIVES), np.int64)
    candidates[:, 0] = targets
    negatives = np.zeros(len(users), np.int64)
    seen: list[NDArray[np.int32]] = []
    for row, user in enumerate(users):
        history = np.unique(split.history(int(user), part))
        seen.append(history[history != targets[row]])
        allowed = np.ones(item_count + 1, bool)
        allowed[0] = False
        allowed[split.interactions.sequence(int(user))] = False
        pool = np.flatnonzero(allowed)
        rng = np.random.default_rng([CANDIDATES_SEED, int(user), 0 if part == "validation" else 1])
        drawn = rng.choice(pool, min(SAMPLED_NEGATIVES, len(pool)), replace=False) if len(pool) else pool
        candidates[row, 1 : 1 + len(drawn)] = drawn
        negatives[row] = len(drawn)
    return Questions(samples.astype(np.int64), targets, tuple(seen), candidates, negatives)


def ranks_of_scores(scores: NDArray[np.float32], questions: Questions, rows: slice = slice(None)) -> Ranks:
    """Rank the held-out items by catalogue scores ``[u, N]`` of the users in ``rows``.

    Args:
        scores: Logits in catalogue order; changed in place (seen items become -inf).
        questions: The questions.
        rows: Which of the questions' users the scores belong to.
    """
    targets, candidates = questions.targets[rows], questions.candidates[rows]
    at = np.arange(len(targets))
    own = scores[at, targets - 1][:, None]
    sampled = np.take_along_axis(scores, np.maximum(candidates[:, 1:] - 1, 0), axis=1)
    real = np.arange(candidates.shape[1] - 1) < questions.negatives[rows][:, None]
    # "not at most" instead of "more than": a score that is not a number must never count as a good one
    sampled_rank = 1 + (~(sampled <= own) & real).sum(1) + 0.5 * ((sampled == own) & real).sum(1)
    full_rank = full_catalogue_ranks(scores, targets - 1, questions.seen_places(rows))
    return Ranks(full_rank, sampled_rank.astype(np.float64), questions.negatives[rows])


def full_catalogue_ranks(
    scores: NDArray[np.float32], targets: NDArray[np.int64], seen: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Rank one item a row among the whole catalogue minus what the row has seen; ties count half.

    Args:
        scores: Logits ``[u, N]``; changed in place (seen items become -inf).
        targets: Place of the item in each row, ``[u]``.
        seen: Places each row leaves out; never its target.

    Returns:
        Ranks from 1 on, ``[u]``; an item whose score is not a number comes after all others.
    """
    at = np.arange(len(targets))
    own = scores[at, targets][:, None]
    counts = [len(places) for places in seen]
    if sum(counts):
        scores[np.repeat(at, counts), np.concatenate(seen)] = -np.inf
    ties = np.maximum((scores == own).sum(1) - 1, 0)
    ranks: NDArray[np.float64] = 1 + (~(scores <= own)).sum(1) + 0.5 * ties
    return ranks


def rank(network: nn.Module, questions: Questions, served: Served, *, batch_size: int = 512) -> Ranks:
    """Rank the held-out items with a network (a :class:`~duet.training.networks.Ranker`) in evaluation mode."""

    def condition(rows: slice, samples: Tensor, positions: Tensor) -> tuple[Tensor, Sequence[LayerResidual] | None]:
        found: tuple[Tensor, Sequence[LayerResidual] | None] = network.condition(samples, positions, served)  # type: ignore[operator]
        return found

    return rank_conditioned(network, questions, condition, batch_size=batch_size)


def rank_conditioned(
    network: nn.Module,
    questions: Questions,
    condition: Callable[[slice, Tensor, Tensor], tuple[Tensor, Sequence[LayerResidual] | None]],
    *,
    batch_size: int = 512,
) -> Ranks:
    """Rank the held-out items where somebody else says what the devices hold.

    Args:
        network: Scores states and residuals, in evaluation mode.
        questions: The questions.
        condition: Returns states ``[u, S]`` and residuals for the users in a slice, from their samples ``[u, T]`` and
            the flat positions ``[u]`` of their newest items.
        batch_size: Users at once.
    """
    was_training = network.training
    network.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(questions.targets), batch_size):
            rows = slice(start, start + batch_size)
            samples = questions.samples[rows]
            positions = torch.from_numpy(last_positions(samples.astype(np.int32)))
            states, residuals = condition(rows, torch.from_numpy(samples), positions)
            scores = network.meta.scores(states, residuals)  # type: ignore[operator,union-attr]
            parts.append(ranks_of_scores(scores.numpy(), questions, rows))
    network.train(was_training)
    return Ranks.joined(parts)
