"""Writes a split so that the DUET authors' released program runs on exactly the users, items and candidates of ours.

    train.txt        every trained position: the item and some sampled negatives
    validation.txt   the validation item of every evaluated user and its 99 sampled negatives
    test.txt         the same for the test item
    export.json      what was exported: ids, sizes, fingerprint of the data, hash of the candidates

The candidates are those of our sampled metrics. Lines of a user stand together, as the authors' metrics need, and
candidates in random order, since theirs resolve ties by the order of lines.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duet.data.authors_lines import AuthorsLine, write_authors_lines
from duet.data.interactions import Interactions
from duet.data.splits import Part, Split
from duet.protocol.errors import InvalidData
from duet.training.checkpoint import write_atomically
from duet.training.config import TrainingConfig
from duet.training.ranking import Questions, ask
from duet.training.tasks import split_of

DESCRIPTION = "export.json"


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        lines: How many lines each file has.
        vocabulary: ``id_vocab`` of the authors' configuration: the items and the padding.
    """

    lines: dict[str, int]
    vocabulary: int


def export_for_authors(
    config: TrainingConfig,
    interactions: Interactions,
    folder: Path,
    *,
    on_file: Callable[[str], None] = lambda name: None,
) -> Export:
    """Write the split of a configuration into a new folder.

    Args:
        config: Names the split, the seed, the sample length and the negatives of a trained position.
        interactions: The data.
        folder: Where to; it must not hold anything yet.
        on_file: Called with the name of each file before it is written.

    Raises:
        InvalidData: If the folder is not empty.
        DatasetTooSmall: If the split cannot be made.
    """
    split, length = split_of(config, interactions), config.backbone.length
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidData(
            path=folder,
            line=None,
            expected="an empty or a new folder",
            received="one that holds something",
            remedy="Name another folder with --out.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    on_file("train.txt")
    training = _trained(split, length, config.optimisation.negatives, config.seed)
    lines, hashes = {"train.txt": write_authors_lines(folder / "train.txt", training)}, {}
    parts: tuple[Part, ...] = ("validation", "test")
    for part in parts:
        on_file(f"{part}.txt")
        users = split.evaluated(part)
        questions = ask(split, users, part, length)
        hashes[part] = questions.candidates_hash
        asked = _asked(questions, users.tolist(), config.seed)
        lines[f"{part}.txt"] = write_authors_lines(folder / f"{part}.txt", asked)
    document = {
        "dataset": interactions.name,
        "sha256": interactions.fingerprint(),
        "seed": config.seed,
        "length": length,
        "negatives": config.optimisation.negatives,
        "split": config.data.split,
        "unseen_share": config.data.unseen_share,
        "id_vocab": interactions.item_count + 1,
        "candidates": hashes,
        "lines": lines,
        "items": list(interactions.item_ids),
        "users": list(interactions.users),
    }
    write_atomically(folder / DESCRIPTION, (json.dumps(document, ensure_ascii=False) + "\n").encode())
    return Export(lines, interactions.item_count + 1)


def _trained(split: Split, length: int, negatives: int, seed: int) -> Iterator[AuthorsLine]:
    """Every trained position of every user, in random order of users; their program does not shuffle."""
    count = split.interactions.item_count
    random = np.random.default_rng([seed, 0xA07])
    for user in random.permutation(np.flatnonzero(split.train_lengths >= 2)):
        sequence = split.interactions.sequence(int(user))[: split.train_lengths[user]]
        for place in range(1, len(sequence)):
            sample = _padded(sequence[max(0, place - length) : place].tolist(), length)
            positive = int(sequence[place])
            drawn = random.integers(1, count, negatives)
            # uniform over all items but the positive, as in our binary loss
            for target, label in [(positive, 1), *((int(item + (item >= positive)), 0) for item in drawn)]:
                yield AuthorsLine(int(user), target, sample, sample, label)


def _asked(questions: Questions, users: list[int], seed: int) -> Iterator[AuthorsLine]:
    random = np.random.default_rng([seed, 0xA08])
    for row, user in enumerate(users):
        sample = tuple(int(item) for item in questions.samples[row])
        candidates = questions.candidates[row, : 1 + questions.negatives[row]]
        for place in random.permutation(len(candidates)):
            yield AuthorsLine(user, int(candidates[place]), sample, sample, int(place == 0))


def _padded(items: list[int], length: int) -> tuple[int, ...]:
    return (*items, *[0] * (length - len(items)))
