"""JSON with one spelling per value, so that it can be hashed, and with one strict reader for files from disk.

Keys are sorted, there are no spaces, text is UTF-8, NaN and infinity do not exist.
"""

import json
from typing import NoReturn, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


# one for all: making it takes longer than encoding a sample
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def encode_json(value: object) -> bytes:
    """Write ``value`` in its one canonical spelling.

    Raises:
        ValueError: If a number is not finite or a text is not valid Unicode.
        TypeError: If a value has no JSON form.
    """
    return _CANONICAL.encode(value).encode()


def decode_json(data: bytes) -> Json:
    """Read JSON strictly.

    Raises:
        ValueError: If it is not UTF-8 JSON, repeats a key, names NaN or infinity, or nests deeper than can be read.
    """
    try:
        value: Json = json.loads(
            data.decode(), parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"it holds {text[:40]}, which is larger than a float64")
    return value


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("it repeats a key")
    return members
