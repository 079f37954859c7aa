"""Tells what pydantic found wrong with a message: the field, what was expected there, and what came."""

import json
from collections.abc import Mapping, Sequence

from pydantic_core import ErrorDetails

_SHOWN_MISTAKES, _SHOWN_CHARACTERS = 3, 60
_READABLE_BITS = 64

# pydantic's own kinds of mistakes; its context fills in the braces
_EXPECTED: Mapping[str, str] = {
    "missing": "a value",
    "extra_forbidden": "no field of this name",
    "json_invalid": "JSON",
    "model_type": "an object",
    "tuple_type": "a list",
    "too_short": "a list of length {min_length} or more",
    "too_long": "a list of length {max_length} or less",
    "literal_error": "{expected}",
    "string_type": "text",
    "string_too_short": "text of length {min_length} or more",
    "string_too_long": "text of length {max_length} or less",
    "string_pattern_mismatch": "text that matches {pattern}",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than_equal": "a number of at most {le:g}",
    "one_of": "one of {names}",
}
# the last part of these places says which of several kinds was meant; no field has that name
_KINDS = {("link",): ("profile", "measured"), ("embedding", "values"): ("base64", "numbers")}
_MEASURED_LINK = "{down_kbps, up_kbps, rtt_ms}"


def told(mistakes: Sequence[ErrorDetails]) -> str:
    """Tell the first mistakes in one line, such as ``budget_ms: expected a number above 0, got -1``.

    Args:
        mistakes: What ``ValidationError.errors()`` lists, inputs and contexts included.
    """
    # a list is also said to be too short after each of its entries has been refused
    outer = {mistake["loc"][:depth] for mistake in mistakes for depth in range(len(mistake["loc"]))}
    causes = [mistake for mistake in mistakes if mistake["loc"] not in outer]
    lines = [_told(mistake) for mistake in causes[:_SHOWN_MISTAKES]]
    more = f" (and {len(causes) - _SHOWN_MISTAKES} more)" if len(causes) > _SHOWN_MISTAKES else ""
    return "; ".join(lines) + more


def _told(mistake: ErrorDetails) -> str:
    kind, place, context = mistake["type"], mistake["loc"], mistake.get("ctx", {})
    expected = _EXPECTED[kind].format(**context) if kind in _EXPECTED else f"another value ({mistake['msg']})"
    received = _shown(mistake["input"])
    if kind == "missing":
        received = "none"
    elif kind == "json_invalid":
        received = f"text that is not JSON: {context['error']}"
    elif kind == "one_of":
        received = context["received"]
    elif place == ("link", "profile"):
        expected += f", or {_MEASURED_LINK}"
    return f"{_field(place) or 'body'}: expected {expected}, got {received}"


def _field(place: tuple[int | str, ...]) -> str:
    """Spell a place in a message, such as ``accepts.forms[0]``."""
    for field, kinds in _KINDS.items():
        depth = len(field)
        if place[:depth] == field and place[depth : depth + 1] and place[depth] in kinds:
            place = (*field, *place[depth + 1 :])
    parts = [f"[{part}]" if isinstance(part, int) else f".{part[:_SHOWN_CHARACTERS]}" for part in place]
    return "".join(parts).removeprefix(".")


def _shown(value: object) -> str:
    """Spell a value as JSON does, cut to a length that fits a sentence; lists and objects by their size."""
    match value:
        case str():
            text = json.dumps(value[:_SHOWN_CHARACTERS], ensure_ascii=False)
            return text if len(value) <= _SHOWN_CHARACTERS else f'{text[:-1]}…" ({len(value)} characters)'
        case list() | tuple():
            return f"a list of length {len(value)}"
        case dict():
            return "an object"
        case int() if value.bit_length() > _READABLE_BITS:
            # Python refuses to spell the largest ones
            return "a number that is too large to be shown"
        case _:
            return json.dumps(value, default=repr)[:_SHOWN_CHARACTERS]
