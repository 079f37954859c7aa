"""Records of runs that never ran: ranks drawn at random, better where a condition is said to be better."""

import numpy as np

from duet.evaluation.record import (
    Answer,
    Cost,
    Dataset,
    FineTuned,
    RunRecord,
    Sizes,
    Training,
    Trial,
    pack,
    pack_mask,
)
from duet.training.config import BackboneOptions, TrainingConfig
from duet.training.ranking import Ranks

USERS, ITEMS, NEGATIVES = 80, 300, 99


def random_ranks(*key, skill=0.0, users=USERS):
    """Draw ranks that depend on the key; a higher skill moves all of them up."""
    random = np.random.default_rng(key)
    share = random.random(users) ** (1 + skill)
    return Ranks(
        full=np.round(2 * (1 + share * (ITEMS - 1))) / 2,
        sampled=np.round(1 + share * NEGATIVES),
        negatives=np.full(users, NEGATIVES),
    )


def made_up(name="static", seed=0, *, skills=None, tested=None, users=USERS, grid="paper", **changes):
    """Make up a run; ``skills`` gives the conditions and how good each is, the best first."""
    skills = {"shared": 0.0} if skills is None else skills
    known = ("static", "capacity-matched", "fine-tuned", "film", "apg")
    model = changes.pop("model", name if name in known else "duet")
    backbone = BackboneOptions(name=changes.pop("backbone", "sasrec"))
    config = changes.pop("config", TrainingConfig(model=model, seed=seed, backbone=backbone))
    update = {
        condition: {"float32": 1000 + 100 * at, "float16": 500 + 50 * at, "int8": 250 + 25 * at}
        for at, condition in enumerate(skills)
        if not condition.endswith("-int8") and condition.startswith(("factors", "full", "scale-shift", "core"))
    }
    fields = {
        "schema": 1,
        "grid": grid,
        "name": name,
        "seed": seed,
        "part": "test",
        "dataset": Dataset(name="made-up", users=users + 5, evaluated=users, items=ITEMS, sha256="ab" * 32),
        "config": config,
        "training": Training(
            seconds=60.0 * (seed + 1),
            epochs=9,
            best_epoch=4 + seed,
            positions_per_s=1000.0 * (seed + 1),
            history=(0.1, 0.15, 0.2, 0.22, 0.21),
        ),
        "sizes": Sizes(static=1000, dynamic=100, generator=5000 if tested else 0, update=update),
        "tested": tested,
        "candidates": "abcd",
        "negatives": pack(np.full(users, NEGATIVES)),
        "groups": {"cold": pack_mask(np.arange(users) % 4 == 0)},
        "answers": {
            condition: Answer.of(random_ranks(seed, skill=skill, users=users)) for condition, skill in skills.items()
        },
        "provenance": {"commit": "0123456789ab", "hardware": "none, 0 cores", "versions": {"torch": "2"}},
        "origin": f"runs/{name}-s{seed}",
    }
    return RunRecord(**{**fields, **changes})


def made_up_duet(name="duet-r4", seed=0, **changes):
    """Make up a generating run in which own parameters are best and another user's are worst."""
    skills = {"factors-r4": 3.0, "factors-r2": 2.5, "factors-r1": 2.0, "shared": 1.0}
    skills |= {"stale-1": 2.9, "stale-5": 2.0, "mean": 1.0, "swapped": 0.2}
    return made_up(name, seed, **{"skills": skills, "tested": "factors-r4", **changes})


def made_up_fine_tuned(name="fine-tuned", seed=0, *, slow=20.0, **changes):
    """Make up a run of fine-tuning, which takes so many times as long as generating."""
    best = Trial(layers="classifier", learning_rate=1e-3, steps=5, value=0.2)
    cost = Cost(one_ms=0.5, batched_ms=0.05, batch=32, megaflops=0.4, device_bytes=0)
    made = {
        "skills": {"fine-tuned": 1.5},
        "fine_tuning": FineTuned(chosen=best, users=60, trials=(best,)),
        "costs": {
            "fine-tuned": cost.model_copy(update={"one_ms": 0.5 * slow, "batched_ms": 0.05 * slow, "megaflops": 8.0}),
            "factors-r4": cost,
            "factors-r4 on device": cost.model_copy(
                update={"one_ms": 0.1, "batched_ms": None, "megaflops": None, "device_bytes": 90_000}
            ),
        },
    }
    return made_up(name, seed, **{**made, **changes})
