"""Devices that fine-tune: what suits them best is chosen on validation, for quality, and then asked about once.

Every combination of layers, learning rate and number of steps is tried on the validation items: a device learns from
what it knew before that item. The best by mean NDCG@10 is what all devices do before the test item, having learnt from
what they know then. What was tried stays in the run folder, so that a
choice that is stopped goes on.

Shapes: U users, N catalogue items.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from duet.data.splits import Part, Split
from duet.data.windows import last_positions
from duet.evaluation.record import FineTuned, Trial
from duet.networks.universal_meta_network import UniversalMetaNetwork
from duet.protocol.errors import UnusableRun
from duet.training.checkpoint import write_atomically
from duet.training.config import TrainingConfig
from duet.training.fine_tuning import SEED, FineTuning, Lessons, Recipe, lessons_of
from duet.training.ranking import Questions, Ranks, ask, ranks_of_scores

CHOICE = "fine_tuning.jsonl"
BATCH = 32
"""Devices side by side: with all layers each has some megabytes of its own."""


def choose_recipe(
    folder: Path,
    meta: UniversalMetaNetwork,
    config: TrainingConfig,
    split: Split,
    *,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> FineTuned:
    """Return how devices fine-tune best on validation; what a run folder has tried is not tried again.

    Args:
        folder: The run, whose folder keeps the choice.
        meta: The static model that devices start from.
        config: What is to be tried.
        split: The data.
        on_trial: Told every trial.

    Raises:
        UnusableRun: If the folder's choice cannot be read.
    """
    path, options, users = folder / CHOICE, config.fine_tuning, split.evaluated("validation")
    if len(users) > options.users:
        users = np.sort(np.random.default_rng(SEED).choice(users, options.users, replace=False))
    trials = _read(path)
    done = {(trial.layers, trial.learning_rate) for trial in trials}
    wanted = [(layers, rate) for layers in options.layers for rate in options.learning_rates]
    questions = ask(split, users, "validation", config.backbone.length)
    lessons = lessons_of(split, users, "validation", config.backbone.length)
    tuning = FineTuning(meta, config.optimisation, split.interactions.item_count)
    for layers, rate in wanted:
        if (layers, rate) in done:
            continue
        recipe = Recipe(layers, rate, max(options.steps))
        for steps, ranks in sorted(ranks_while(tuning, lessons, recipe, questions, options.steps).items()):
            value = round(float(ranks.ndcg().mean()), 6)
            trials.append(Trial(layers=layers, learning_rate=rate, steps=steps, value=value))
            on_trial(trials[-1])
        write_atomically(path, "".join(f"{trial.model_dump_json()}\n" for trial in trials).encode())
    # of equals the one with fewer steps, and the classifier before all layers
    best = max(trials, key=lambda trial: (trial.value, -trial.steps))
    return FineTuned(chosen=best, users=len(users), trials=tuple(trials))


def _read(path: Path) -> list[Trial]:
    try:
        return [Trial.model_validate_json(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UnusableRun(
            path=path, reason=f"it cannot be read ({error})", remedy="Delete it; it will be chosen again."
        ) from error


def rank_fine_tuned(
    meta: UniversalMetaNetwork, config: TrainingConfig, split: Split, part: Part, questions: Questions, how: Trial
) -> Ranks:
    """Rank the held-out item of every user on a device that has fine-tuned until then."""
    tuning = FineTuning(meta, config.optimisation, split.interactions.item_count)
    lessons = lessons_of(split, split.asked(part), part, config.backbone.length)
    return ranks_while(tuning, lessons, recipe_of(how), questions, ())[how.steps]


def recipe_of(trial: Trial) -> Recipe:
    """Return the recipe that was tried."""
    return Recipe(trial.layers, trial.learning_rate, trial.steps)


def ranks_while(
    tuning: FineTuning, lessons: Lessons, recipe: Recipe, questions: Questions, stops: tuple[int, ...]
) -> dict[int, Ranks]:
    """Fine-tune all devices, some at a time, and rank their items after some numbers of steps and at the end."""
    found: dict[int, list[Ranks]] = {}
    for start in range(0, len(lessons), BATCH):
        rows = slice(start, start + BATCH)
        samples = questions.samples[rows]
        newest = torch.from_numpy(last_positions(samples.astype(np.int32)) % samples.shape[1])
        for step, parameters in tuning.run(lessons.of(rows), recipe, stops):
            scores = tuning.score(parameters, torch.from_numpy(samples), newest)
            found.setdefault(step, []).append(ranks_of_scores(scores.numpy().copy(), questions, rows))
    return {step: Ranks.joined(parts) for step, parts in found.items()}
