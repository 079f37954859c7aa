"""Bodies of requests for a ranking model: devices with random samples of its catalogue."""

import json
import random
from collections.abc import Mapping
from pathlib import Path

from duet.registry import Registry

COUNT = 500

NO_NETWORK: Mapping[str, float] = {"down_kbps": 1e9, "up_kbps": 1e9, "rtt_ms": 0}
"""A link that takes microseconds: all of a budget is the server's share."""

SMALLEST: Mapping[str, list[str]] = {"forms": ["factors"], "dtypes": ["int8"]}
"""What a device accepts that wants few bytes."""

_SAMPLE_ITEMS = 10


def bodies(
    models: Path,
    model: str,
    *,
    budget_ms: float,
    link: str | Mapping[str, float] = "wifi",
    seed: int = 0,
    **further: object,
) -> list[str]:
    """Draw requests, JSON.

    Args:
        models: Root of the model repository.
        model: Whose active version knows the catalogue.
        budget_ms: Of every request.
        link: Of every device, a profile or as it is measured.
        seed: Of the samples.
        further: Fields that every request has besides.
    """
    draws, registry = random.Random(seed), Registry(models)
    ids = list(registry.open(model, registry.active(model)).vocabulary().ids)
    return [
        json.dumps(
            {
                "device": f"device-{number}",
                "sample": draws.sample(ids, min(_SAMPLE_ITEMS, len(ids))),
                "budget_ms": budget_ms,
                "link": link,
                **further,
            }
        )
        for number in range(COUNT)
    ]


def encoded(lines: list[str]) -> list[bytes]:
    """Turn them into what is sent."""
    return [line.encode() for line in lines]
