"""Requests made from the OpenAPI document by schemathesis, and the answers held against it."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.run import PhaseName

DESIGNED = ("503", "504")
"""The answers of 500 and above that the document promises: `version_not_ready` and `deadline_exceeded`."""

REPLY_S = 15.0
"""No answer takes longer: a body has 10 s to arrive, a budget is 10 s at most."""

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_VERSION = re.compile("[0-9a-f]{32}")
_MODEL_SHARE, _KNOWN_SHARE = 0.8, 0.7
_REFUSED = ["4xx", *DESIGNED]
# 404: a model of another name; 406, 409, 422, 429: what the document cannot know of the model, the link and the load
_ACCEPTED = ["2xx", "3xx", "404", "406", "409", "422", "429", *DESIGNED]


@dataclass
class ContractRun:
    """What came of it.

    Attributes:
        statuses: Answers by operation and status; ``none`` where none came.
        drawn: Requests by operation that were drawn at random; the others are the limits of schemas.
        slowest_s: The longest time to an answer, by operation.
        failures: What did not hold, and how often; the first of each kind in full.
    """

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    _told: dict[tuple[str, str, str], str] = field(default_factory=dict)

    @property
    def examples(self) -> int:
        """How many requests were answered."""
        return self.statuses.total()

    def fail(self, operation: str, check: str, title: str, told: str) -> None:
        """Count a failure with those of its kind."""
        self.failures[self._told.setdefault((operation, check, title), f"{operation}: {check}: {told}")] += 1


def operations_of(url: str) -> dict[str, bool]:
    """Name the operations of a server's document, and say whether each takes anything: a parameter, or a body."""
    paths = httpx.get(f"{url}/openapi.json", timeout=REPLY_S).raise_for_status().json()["paths"]
    return {
        f"{method.upper()} {path}": bool(operation.get("parameters") or "requestBody" in operation)
        for path, item in paths.items()
        for method, operation in item.items()
        if method in _METHODS
    }


def run_contract(
    url: str,
    *,
    model: str,
    samples: Sequence[object],
    embeddings: Sequence[object],
    examples: int,
    seed: int,
    phases: Sequence[str],
    outcome: ContractRun,
) -> None:
    """Ask a running server for everything that its document describes, rightly and wrongly.

    Args:
        url: Where it is.
        model: A model that it serves: most names in paths are this one.
        samples: What the model takes: the document leaves a sample open.
        embeddings: The same for ``embedding``, whose length and version the document does not know.
        examples: Random ones of each operation that has so many.
        seed: Of the random ones.
        phases: Of schemathesis: ``coverage`` makes the limits of every schema, ``fuzzing`` random requests.
        outcome: Is added to.
    """
    config = SchemathesisConfig.from_dict(
        {
            "base-url": url,
            "seed": seed,
            "request-timeout": REPLY_S,
            "continue-on-failure": True,
            "dictionaries": {"models": {"values": [model]}},
            "parameters": {"path.model": {"dictionary": "models", "probability": _MODEL_SHARE}},
            "generation": {"max-examples": examples, "database": "none", "no-shrink": True},
            "phases": {name: {"enabled": name in phases} for name in ("examples", "coverage", "fuzzing", "stateful")},
            "checks": {
                "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", *DESIGNED]},
                "negative_data_rejection": {"expected-statuses": _REFUSED},
                "positive_data_acceptance": {"expected-statuses": _ACCEPTED},
            },
        }
    )
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)

    def map_body(context: schemathesis.HookContext, body: Any) -> Any:
        del context
        # the same for the same body: hypothesis repeats what has failed
        choices = random.Random(repr(body))
        for name, known in (("sample", samples), ("embedding", embeddings)):
            is_there = isinstance(body, dict) and name in body and (name == "sample" or _is_embedding(body[name]))
            if is_there and known and choices.random() < _KNOWN_SHARE:
                body = body | {name: choices.choice(known)}
        return body

    schema.hook(map_body)
    for event in from_schema(schema).execute():
        _note(event, outcome)


def _is_embedding(value: Any) -> bool:
    """Whether the document allows it: one that breaks a rule must stay as it is, or the request would become right."""
    if not isinstance(value, dict) or value.keys() != {"version", "values"} or not isinstance(value["version"], str):
        return False
    values = value["values"]
    numbers = values if isinstance(values, list) else [None]
    are_numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers)
    return bool(_VERSION.fullmatch(value["version"])) and (isinstance(values, str) or are_numbers)


def _note(event: events.EngineEvent, outcome: ContractRun) -> None:
    if isinstance(event, events.FatalError):
        raise event.exception
    if isinstance(event, events.NonFatalError):
        outcome.fail(event.label, "schemathesis", type(event.value).__name__, str(event.value))
    if not isinstance(event, events.ScenarioFinished):
        return
    recorder = event.recorder
    if event.phase == PhaseName.FUZZING:
        outcome.drawn[recorder.label] += len(recorder.interactions)
    for interaction in recorder.interactions.values():
        response = interaction.response
        outcome.statuses[recorder.label, "none" if response is None else str(response.status_code)] += 1
        if response is not None:
            slowest_s = outcome.slowest_s.get(recorder.label, 0.0)
            outcome.slowest_s[recorder.label] = max(slowest_s, response.elapsed)
    for checks in recorder.checks.values():
        for check in checks:
            if check.status == Status.FAILURE and check.failure_info is not None:
                failure, code = check.failure_info.failure, check.failure_info.code_sample
                outcome.fail(recorder.label, check.name, failure.title, f"{failure.title}: {failure.message}\n{code}")
