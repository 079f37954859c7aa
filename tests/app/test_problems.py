"""Every failure of the cloud has a status, and a problem document tells what the caller needs and nothing else."""

import json
from collections.abc import Iterator

import pytest

from app.problems import MEDIA_TYPE, STATUS, problem_response
from duet.protocol import errors
from duet.protocol.errors import DuetError

DOCUMENTED = {400, 401, 404, 406, 408, 409, 413, 415, 422, 429, 431, 500, 503, 504}


def leaves(error: type[DuetError]) -> Iterator[type[DuetError]]:
    branches = error.__subclasses__()
    if not branches:
        yield error
    for branch in branches:
        yield from leaves(branch)


def document(error: Exception) -> dict[str, object]:
    response = problem_response(error, "request-1")
    assert response.media_type == MEDIA_TYPE
    told: dict[str, object] = json.loads(response.body)
    assert told["status"] == response.status_code
    return told


def test_every_failure_of_the_cloud_has_a_status_and_no_other_one_has() -> None:
    families = (errors.RequestError, errors.ServiceUnavailable, errors.GenerationError)
    let_out = {leaf for family in families for leaf in leaves(family)}

    # of the repository's errors a request can meet one: a version that it names is damaged
    assert let_out | {errors.CorruptVersion} == set(STATUS)
    assert set(STATUS.values()) == DOCUMENTED


def test_a_problem_tells_code_sentence_facts_and_request() -> None:
    error = errors.BudgetTooSmall(budget_ms=20, smallest_ms=71.5)

    told = document(error)

    assert told == {
        "type": "urn:duet:problem:budget_too_small",
        "title": "Unprocessable Entity",
        "status": 422,
        "code": "budget_too_small",
        "detail": str(error),
        "request_id": "request-1",
        "budget_ms": 20,
        "smallest_ms": 71.5,
    }


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("secret"),
        errors.CorruptPackage(reason="secret"),
        errors.UnsupportedManifest(path="/secret", received="secret", known=[1]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_ours_to_fix_tells_nothing_of_its_cause(error: Exception) -> None:
    told = document(error)

    assert (told["status"], told["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(told)


def test_facts_do_not_send_back_all_that_a_caller_has_sent() -> None:
    told = document(errors.UnknownModel(model="m" * 3000, known=["tiny"]))

    assert told["known"] == ["tiny"]
    assert len(json.dumps(told)) < 1000


def test_overload_says_when_to_come_back() -> None:
    response = problem_response(errors.Overloaded(retry_after_s=1.2), "request-1")

    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"


def test_who_meets_an_outage_is_told_to_come_back_soon() -> None:
    response = problem_response(errors.VersionNotReady(model="tiny", version="v1"), "request-1")

    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
