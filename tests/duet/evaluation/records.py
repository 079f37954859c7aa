"""Records of runs that never ran: ranks drawn at random, better where a condition is said to be better."""

import numpy as np

from duet.evaluation.record import Answer, Dataset, RunRecord, Sizes, Training, pack, pack_mask
from duet.training.config import TrainingConfig
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
    model = changes.pop("model", name if name in ("static", "capacity-matched") else "duet")
    config = changes.pop("config", TrainingConfig(model=model, seed=seed))
    update = {
        condition: {"float32": 1000 + 100 * at, "float16": 500 + 50 * at, "int8": 250 + 25 * at}
        for at, condition in enumerate(skills)
        if condition.startswith("factors") or condition == "full"
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
