"""Writes a split as RecBole's atomic files, one row a question: user, the items before, the next item.

Three files that RecBole takes as already split (``benchmark_filename``): every trained position, and the validation and
the test item of every evaluated user. Ids are user positions and catalogue indices.
"""

from collections.abc import Iterator
from pathlib import Path

from duet.data.splits import Part, Split

_HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"


def write_rows(split: Split, length: int, folder: Path, *, name: str) -> dict[str, int]:
    """Write ``<name>/<name>.{train,valid,test}.inter`` below a folder.

    Args:
        split: The split.
        length: Most items before the next one, T.
        folder: Where to; created if need be.
        name: Of the data set.

    Returns:
        Rows of each file, by its part.
    """
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    counts = {}
    for part, rows in {
        "train": _trained(split, length),
        "valid": _asked(split, length, "validation"),
        "test": _asked(split, length, "test"),
    }.items():
        lines = [f"{user}\t{' '.join(map(str, before))}\t{item}\n" for user, before, item in rows]
        (home / f"{name}.{part}.inter").write_text(_HEADER + "".join(lines))
        counts[part] = len(lines)
    return counts


def _trained(split: Split, length: int) -> Iterator[tuple[int, list[int], int]]:
    for user, count in enumerate(split.train_lengths.tolist()):
        sequence = split.interactions.sequence(user)[:count].tolist()
        for place in range(1, count):
            yield user, sequence[max(0, place - length) : place], sequence[place]


def _asked(split: Split, length: int, part: Part) -> Iterator[tuple[int, list[int], int]]:
    for user in split.evaluated(part).tolist():
        yield user, split.history(user, part)[-length:].tolist(), split.target(user, part)
