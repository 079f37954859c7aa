"""Requests that no server should answer with parameters, and how it has to refuse each: devices have bugs too."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

BODY_LIMIT_BYTES = 2**20
"""The largest body that a server takes unless its operator said otherwise."""


@dataclass(frozen=True)
class FaultyRequest:
    """One way to be wrong.

    Attributes:
        name: What a report calls it.
        body: What is sent.
        content_type: As what.
        statuses: The answers that the API documents for it. 0 is none: the server may close the connection on a body
            that it is not going to read.
    """

    name: str
    body: bytes
    content_type: str = "application/json"
    statuses: tuple[int, ...] = (400,)

    def judge(self, status: int, headers: Mapping[str, str], body: bytes) -> str | None:
        """Say what is wrong with the answer; None where the request was refused as documented."""
        if status not in self.statuses:
            return f"{self.name} request: expected {' or '.join(map(str, self.statuses))}, got {status or 'no answer'}"
        if status == 0:
            return None
        try:
            problem = json.loads(body)
        except (ValueError, RecursionError):
            problem = None
        is_problem = headers.get("content-type", "").partition(";")[0] == "application/problem+json"
        if not is_problem or not isinstance(problem, dict) or not problem.get("code"):
            return f"{self.name} request: {status} without a problem document"
        return None


def malformed_requests(request: Mapping[str, object]) -> tuple[FaultyRequest, ...]:
    """Spoil a good request, each time in another way."""
    good = json.dumps(request).encode()
    return (
        FaultyRequest("truncated", good[: len(good) // 2]),
        FaultyRequest("unknown field", json.dumps({**request, "budget": 50}).encode()),
        FaultyRequest("number in quotes", json.dumps({**request, "budget_ms": "50"}).encode()),
        FaultyRequest("negative budget", json.dumps({**request, "budget_ms": -1}).encode()),
        FaultyRequest("empty sample", json.dumps({**request, "sample": []}).encode(), statuses=(422,)),
        FaultyRequest("text for a sample", json.dumps({**request, "sample": "none"}).encode(), statuses=(422,)),
        FaultyRequest("form", b"device=phone", "application/x-www-form-urlencoded", statuses=(415,)),
    )


def oversized_request(request: Mapping[str, object], limit_bytes: int = BODY_LIMIT_BYTES) -> FaultyRequest:
    """Make a request that is larger than a server reads."""
    # put together and not encoded: milliseconds in which the generator could send nothing else
    rest = json.dumps({name: value for name, value in request.items() if name != "sample"}).encode()
    body = rest[:-1] + b', "sample": [' + b"1, " * (limit_bytes // 3) + b"1]}"
    return FaultyRequest("oversized", body, statuses=(413, 0))
