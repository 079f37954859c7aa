"""Ranks a trained run's held-out items under every condition: whatever parameters its devices might hold.

    factors-r4, full, shared   what the run serves, and every smaller power of two of a rank
    factors-r4-int8            the same after a package of bytes
    stale-<k>                  generated from what was known k interactions ago; the device's own sample is the newest
    mean                       one set for everybody: those of the mean embedding of all users
    swapped                    those of another user

The last three test personalisation: if it is real, own > stale > mean > swapped.

Shapes: U users, T sample length, D embedding.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from duet.data.interactions import Interactions
from duet.data.splits import Part, Split
from duet.data.windows import evaluation_samples, last_positions
from duet.evaluation.costs import FINE_TUNED, measure_costs
from duet.evaluation.fine_tuned import choose_recipe, rank_fine_tuned, recipe_of
from duet.evaluation.provenance import provenance
from duet.evaluation.quantised import rank_quantised
from duet.evaluation.record import INT8, Answer, Dataset, RunRecord, Sizes, Training, pack, pack_mask
from duet.networks.duet_network import SHARED, DuetNetwork, Served
from duet.networks.dynamic_layer import LayerResidual
from duet.networks.update_size import update_bytes
from duet.protocol.errors import DatasetTooSmall
from duet.protocol.layers import LayerTable
from duet.protocol.representation import Dtype, Form, Representation
from duet.training import checkpoint
from duet.training.config import TrainingConfig
from duet.training.networks import build_network
from duet.training.ranking import Questions, Ranks, ask, rank, rank_conditioned
from duet.training.tasks import split_of

STALENESS = (1, 2, 5, 10, 20)
"""Ages of stale parameters in interactions, as far as they are below the sample length."""
SWAP_SEED = 20221117
BATCH = 512


@runtime_checkable
class Generating(Protocol):
    """A network whose devices hold parameters that were generated from an embedding."""

    def embeddings(self, items: Tensor) -> Tensor:
        """Return the embedding of every prefix of samples ``[B, T]``: ``[B, T, D]``."""

    def residuals(self, embeddings: Tensor, served: Served) -> Sequence[LayerResidual] | None:
        """Return what is added to the shared classifier for embeddings ``[n, D]``."""


def evaluate_run(
    folder: Path, interactions: Interactions, part: Part = "test", *, grid: str = "", name: str | None = None
) -> RunRecord:
    """Rank the held-out item of every user, unseen ones too, with the best epoch of a run, under all conditions.

    Args:
        folder: The run.
        interactions: The data it was trained on.
        part: Which held-out item.
        grid: The grid the run belongs to.
        name: Its variant there; by default what its configuration says (:func:`describe`).

    Raises:
        UnusableRun: If the folder is no run, has no finished epoch, or was trained on other data.
        DatasetTooSmall: If a generating run has a single user to evaluate.
    """
    config = checkpoint.read_run_config(folder)
    checkpoint.check_data(folder, interactions)
    network = build_network(config, interactions.item_count)
    checkpoint.load_best(folder, network)
    network.eval()
    split, training = split_of(config, interactions), _training(folder)
    users = split.asked(part)
    questions = ask(split, users, part, config.sample_length)
    served: tuple[Served, ...] = network.served  # type: ignore[assignment]
    tested, fine_tuning = None, None
    if config.model == "fine-tuned":
        fine_tuning = choose_recipe(folder, network.meta, config, split)  # type: ignore[arg-type]
        answers = {FINE_TUNED: rank_fine_tuned(network.meta, config, split, part, questions, fine_tuning.chosen)}  # type: ignore[arg-type]
    elif isinstance(network, Generating):
        tested = best_head(folder, training.best_epoch, served)
        # a device reads its sample the same way whatever parameters it holds, and that is most of the work
        states, own = newest_states(network, questions.samples), newest_embeddings(network, questions.samples)
        answers = _served(network, served, questions, states, own)
        answers |= _personalisation(network, tested, split, users, part, questions, states, own)
    else:
        conditions = dict.fromkeys((*ladder(served), SHARED))
        answers = {str(parameters): rank(network, questions, parameters) for parameters in conditions}
    return RunRecord(
        schema=1,
        grid=grid,
        name=describe(config) if name is None else name,
        seed=config.seed,
        part=part,
        dataset=Dataset(
            name=interactions.name,
            users=interactions.user_count,
            evaluated=len(users),
            items=interactions.item_count,
            sha256=interactions.fingerprint(),
        ),
        config=config,
        training=training,
        sizes=_sizes(network, served),
        tested=None if tested is None else str(tested),
        candidates=questions.candidates_hash,
        negatives=pack(questions.negatives),
        groups=_groups(split, interactions, users),
        fine_tuning=fine_tuning,
        costs=measure_costs(network.meta, config, split, recipe_of(fine_tuning.chosen)) if fine_tuning else {},  # type: ignore[arg-type]
        answers={condition: Answer.of(ranks) for condition, ranks in answers.items()},
        provenance=provenance(),  # type: ignore[arg-type]
        origin=str(folder),
    )


def _training(folder: Path) -> Training:
    progress = checkpoint.read_progress(folder)
    # a run that was stopped between its files may know one epoch more than it counts
    history = [epoch for epoch in checkpoint.read_history(folder) if epoch.epoch <= progress.epoch]
    return Training(
        seconds=round(progress.seconds, 3),
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        positions_per_s=round(median(epoch.positions / epoch.train_s for epoch in history), 1) if history else 0.0,
        history=tuple(round(epoch.value, 6) for epoch in history),
        meta_epochs=progress.meta_epochs,
    )


def best_head(folder: Path, best_epoch: int, served: Sequence[Served]) -> Served:
    """Return what validation prefers of all that is served."""
    found = (epoch.validation for epoch in checkpoint.read_history(folder) if epoch.epoch == best_epoch)
    validation = next(found, {})
    return max(served, key=lambda parameters: validation.get(str(parameters), 0.0))


def describe(config: TrainingConfig) -> str:
    """Name a variant by its configuration: ``static``, ``duet-r4``, ``duet-r4+full``."""
    if config.model != "duet":
        return config.model
    heads = ("full" if head == "full" else f"r{config.generator.rank}" for head in config.generator.heads)
    return f"duet-{'+'.join(heads)}"


def ladder(served: Sequence[Served]) -> Iterator[Served]:
    """List what is served, each rank with the smaller powers of two that its nested factors also answer."""
    for parameters in served:
        yield parameters
        for power in reversed(range(max(parameters.rank - 1, 0).bit_length())):
            yield Served(parameters.head, 2**power)


def _served(
    network: nn.Module, served: Sequence[Served], questions: Questions, states: Tensor, own: Tensor
) -> dict[str, Ranks]:
    """Rank with all that devices of a network may hold, the best first, then as int8 packages, then shared."""

    def ranked(parameters: Served) -> Ranks:
        return rank_with_embeddings(network, questions, own, parameters, states=states)

    answers = {str(parameters): ranked(parameters) for parameters in dict.fromkeys(ladder(served))}
    if isinstance(network, DuetNetwork):
        for parameters in served:
            if parameters.head in ("factors", "full"):
                answers[f"{parameters}{INT8}"] = rank_quantised(network, questions, own, parameters, Dtype.INT8)
    return answers | {str(SHARED): answers.get(str(SHARED)) or ranked(SHARED)}


def _personalisation(
    network: nn.Module,
    served: Served,
    split: Split,
    users: NDArray[np.int64],
    part: Part,
    questions: Questions,
    states: Tensor,
    own: Tensor,
) -> dict[str, Ranks]:
    length = questions.samples.shape[1]
    if len(users) < 2:
        raise DatasetTooSmall(what="evaluated users, to swap their parameters", count=len(users), needed=2)
    conditions = {
        f"stale-{lag}": newest_embeddings(
            network, evaluation_samples(split, users, part, length, lag=lag).astype(np.int64)
        )
        for lag in STALENESS
        if lag < length
    }
    conditions["mean"] = own.mean(dim=0, keepdim=True).expand_as(own)
    conditions["swapped"] = own[torch.from_numpy(partners(len(users)))]
    return {
        name: rank_with_embeddings(network, questions, embeddings, served, states=states)
        for name, embeddings in conditions.items()
    }


def partners(users: int, *, seed: int = SWAP_SEED) -> NDArray[np.int64]:
    """Give every user another one, each once: a fixed cycle through all of them in random order, ``[U]``."""
    order = np.random.default_rng([seed, users]).permutation(users)
    given = np.empty(users, np.int64)
    given[order] = np.roll(order, 1)
    return given


def newest_embeddings(network: nn.Module, samples: NDArray[np.int64]) -> Tensor:
    """Return the embedding of the newest position of each sample ``[U, T]``: ``[U, D]``."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(samples), BATCH):
            batch = samples[start : start + BATCH]
            embeddings: Tensor = network.embeddings(torch.from_numpy(batch))  # type: ignore[operator]
            parts.append(embeddings.flatten(0, 1)[torch.from_numpy(last_positions(batch.astype(np.int32)))])
    return torch.cat(parts)


def newest_states(network: nn.Module, samples: NDArray[np.int64]) -> Tensor:
    """Return what devices make of their samples ``[U, T]``, whatever parameters they hold: states ``[U, S]``."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(samples), BATCH):
            batch = samples[start : start + BATCH]
            positions = torch.from_numpy(last_positions(batch.astype(np.int32)))
            states, _ = network.condition(torch.from_numpy(batch), positions, SHARED)  # type: ignore[operator]
            parts.append(states)
    return torch.cat(parts)


def rank_with_embeddings(
    network: nn.Module, questions: Questions, embeddings: Tensor, served: Served, *, states: Tensor | None = None
) -> Ranks:
    """Rank the held-out items on devices whose parameters were generated from given embeddings ``[U, D]``.

    The sample that a device ranks from stays its own newest one.

    Args:
        network: The network, in evaluation mode.
        questions: The questions.
        embeddings: What the parameters are generated from.
        served: Which parameters are.
        states: What the devices make of their samples, if that is known: :func:`newest_states`.
    """
    known = newest_states(network, questions.samples) if states is None else states

    def condition(rows: slice, samples: Tensor, positions: Tensor) -> tuple[Tensor, Sequence[LayerResidual] | None]:
        return known[rows], network.residuals(embeddings[rows], served)  # type: ignore[operator]

    return rank_conditioned(network, questions, condition, batch_size=BATCH)


def _sizes(network: nn.Module, served: Sequence[Served]) -> Sizes:
    def count(*modules: object) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())  # type: ignore[attr-defined]

    meta = network.meta
    dynamic, everything = count(meta.classifier), count(network)  # type: ignore[union-attr]
    generator = everything - count(meta) if isinstance(network, Generating) else 0
    if isinstance(network, DuetNetwork):
        # projections that a rival generates between are on every device
        generator -= sum(p.numel() for p in getattr(network.generator, "kept_on_device", ()))
    return Sizes(
        static=everything - generator - dynamic,
        dynamic=dynamic,
        generator=generator,
        update={
            str(parameters): {dtype.name.lower(): _update_bytes(network, parameters, dtype) for dtype in Dtype}
            for parameters in dict.fromkeys(ladder(served))
            if parameters.head is not None
        },
    )


def _update_bytes(network: nn.Module, parameters: Served, dtype: Dtype) -> int:
    if isinstance(network, DuetNetwork) and parameters.head not in ("factors", "full"):
        return update_bytes(network.generator.update_arrays(), dtype)  # type: ignore[operator]
    table: LayerTable = network.meta.table  # type: ignore[union-attr,assignment]
    return table.package_bytes(Representation(Form[str(parameters.head).upper()], dtype, parameters.rank))


def _groups(split: Split, interactions: Interactions, users: NDArray[np.int64]) -> dict[str, str]:
    groups = {"cold": pack_mask(_cold(interactions, users))}
    if len(split.unseen):
        groups["unseen"] = pack_mask(np.isin(users, split.unseen))
    return groups


def _cold(interactions: Interactions, users: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the quarter of the users with the fewest interactions, ``[U]``."""
    lengths = np.diff(interactions.offsets)[users]
    mask = np.zeros(len(users), bool)
    mask[np.argsort(lengths, kind="stable")[: len(users) // 4]] = True
    return mask
