"""Content negotiation: which of the offered media types an ``Accept`` header prefers."""

from collections.abc import Sequence


def negotiate(accept: str | None, offered: Sequence[str]) -> str | None:
    """Choose a media type.

    Args:
        accept: The header, or None if there is none.
        offered: What can be made, the default first.

    Returns:
        The offered type of highest weight, the earlier one of two; None if none is accepted.
    """
    if not accept or not accept.strip():
        return offered[0]
    ranges = [_range(part) for part in accept.split(",")]
    weights = [_weight(media_type, ranges) for media_type in offered]
    best = max(weights)
    return offered[weights.index(best)] if best > 0 else None


def media_type_of(content_type: str | None) -> str:
    """Read the media type of a ``Content-Type`` header, without parameters and in lower case."""
    return (content_type or "").partition(";")[0].strip().lower()


def _range(part: str) -> tuple[str, float]:
    media_range, *parameters = [piece.strip().lower() for piece in part.split(";")]
    weight = next((value for value in parameters if value.startswith("q=")), "q=1").removeprefix("q=")
    try:
        return media_range, min(max(float(weight), 0.0), 1.0)
    except ValueError:
        return media_range, 0.0


def _weight(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Weigh a type by the most specific range that covers it."""
    for media_range in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        weights = [weight for other, weight in ranges if other == media_range]
        if weights:
            return max(weights)
    return 0.0
