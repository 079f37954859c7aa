"""Update: what came of asking for parameters, as the device measured it and as the cloud reported it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from duet.device.cloud import Answer
from duet.protocol.errors import DuetError
from duet.protocol.representation import Representation


@dataclass(frozen=True)
class Update:
    """What one call of ``DuetDevice.update`` did. Times are those of the last answer, bytes those of all answers.

    Attributes:
        status: ``updated``: new parameters are in place; ``kept``: the cloud says that those in place are what it would
            send, or the best plan; ``failed``: see ``error``, what was in place stays.
        representation: What is in place now; None for the shared parameters of a device that never got any.
        package_bytes: Size of the package, header included; 0 if none arrived.
        bytes_up: HTTP requests, headers included.
        bytes_down: HTTP answers, headers included. A newly downloaded device model does not count.
        measured_ms: From the call to the swap, by the clock of the device.
        plan: What the cloud planned: the name of a representation, or ``keep``.
        predicted_ms: What the cloud predicted, from sending to the last byte received.
        network_ms: The part of it that is network, modelled from the link.
        server_ms: What the cloud measured on its side.
        server: The stages of ``server_ms`` by name: ``queue``, ``encode``, ``generate``, ``compose``.
        attempts: Requests for parameters that were sent.
        model_replaced: Whether a new device model came first, because the cloud serves another version.
        error: Why it failed.
    """

    status: Literal["updated", "kept", "failed"]
    representation: Representation | None
    package_bytes: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    measured_ms: float = 0.0
    plan: str | None = None
    predicted_ms: float | None = None
    network_ms: float | None = None
    server_ms: float | None = None
    server: Mapping[str, float] = field(default_factory=dict)
    attempts: int = 0
    model_replaced: bool = False
    error: DuetError | None = None


def report(answers: Sequence[Answer]) -> Update:
    """Collect what the answers say; nothing is in place yet, so the status is ``failed`` until someone replaces it."""
    if not answers:
        return Update("failed", None)
    headers = answers[-1].headers
    return Update(
        "failed",
        None,
        package_bytes=len(answers[-1].body),
        bytes_up=sum(answer.bytes_up for answer in answers),
        bytes_down=sum(answer.bytes_down for answer in answers),
        plan=headers.get("duet-plan"),
        predicted_ms=_number(headers.get("duet-predicted-ms")),
        network_ms=_number(headers.get("duet-network-ms")),
        server_ms=_number(headers.get("duet-server-ms")),
        server=server_timing(headers.get("server-timing", "")),
        attempts=sum(answer.attempts for answer in answers),
    )


def server_timing(text: str) -> dict[str, float]:
    """Read the durations of a ``Server-Timing`` header, in ms by name; what is malformed is left out."""
    stages = {}
    for metric in text.split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            duration = _number(value.strip('"')) if key == "dur" else None
            if name and duration is not None:
                stages[name] = duration
    return stages


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
