"""What is said of fuzzing follows from its answers: every operation has its own, and each kind of answer its column."""

from collections import Counter

import psutil
import pytest

from benchmarks.serving.contract import ContractRun
from benchmarks.serving.fuzz import UPLOADS, Replica, Row, UploadRun, claims, rows

OPERATIONS = {"GET /livez": False, "POST /parameters": True}


def contract(**further: int) -> ContractRun:
    statuses = {("GET /livez", "200"): 12, ("POST /parameters", "200"): 40, ("POST /parameters", "400"): 60}
    more = {("POST /parameters", status.removeprefix("s")): number for status, number in further.items()}
    drawn = Counter({"GET /livez": 10, "POST /parameters": 90})
    return ContractRun(Counter(statuses | more), drawn, {"GET /livez": 0.001, "POST /parameters": 0.25})


def damaged(**further: int) -> UploadRun:
    statuses = {("body", "400"): 48, ("framing", "0"): 2, ("headers", "304"): 1}
    more = {("body", status.removeprefix("s")): number for status, number in further.items()}
    return UploadRun(Counter(statuses | more), 0.5)


def replica(*, slope: float = 0.0, more: int = 0) -> Replica:
    watched = Replica(psutil.Process())
    watched.readings = [(at, int(2**30 + slope * at)) for at in range(0, 1100, 100)]
    watched.descriptors = [3] + [20] * 9 + [20 + more]
    return watched


def found(
    run: ContractRun | None = None, uploads: UploadRun | None = None, watched: Replica | None = None
) -> dict[str, Row]:
    listed = rows(OPERATIONS, run or contract(), uploads or damaged(), watched or replica(), start=7)
    return {row.part: row for row in listed}


def failing(those: dict[str, Row], watched: Replica | None = None) -> list[str]:
    told = claims(list(those.values()), watched or replica(), examples=100, damaged=51)
    return [claim.what for claim in told if not claim.holds]


def test_answers_are_counted_by_operation_and_class() -> None:
    those = found(contract(s304=1, s500=2, s503=3, s504=4, none=5), damaged(s502=6), replica(slope=2**20 / 1000))

    post, uploads = those["POST /parameters"], those[UPLOADS]
    assert (post.examples, post.drawn, post.answered_2xx, post.answered_3xx, post.answered_4xx) == (115, 90, 40, 1, 60)
    assert (post.designed_5xx, post.undesigned_5xx, post.closed, post.unanswered) == (7, 2, 0, 5)
    assert (uploads.examples, uploads.drawn, uploads.answered_3xx, uploads.answered_4xx) == (57, 57, 1, 48)
    assert (uploads.undesigned_5xx, uploads.closed) == (6, 2)
    assert (those["GET /livez"].slowest_ms, post.slowest_ms, uploads.slowest_ms) == (1.0, 250.0, 500.0)
    assert (post.resident_before_mib, post.resident_after_mib, post.seed) == (1024.0, 1025.0, 7)


def test_everything_holds_for_a_good_server() -> None:
    assert failing(found()) == []


@pytest.mark.parametrize(
    ("run", "uploads", "expected"),
    [
        (contract(s500=1), None, "answers of 500 and above that are not designed"),
        (None, damaged(s502=1), "answers of 500 and above that are not designed"),
        (contract(none=1), None, "requests without an answer in time"),
        (None, damaged(none=1), "requests without an answer in time"),
        (None, UploadRun(Counter({("body", "400"): 50})), UPLOADS),
    ],
)
def test_every_claim_about_answers_can_fail(run: ContractRun | None, uploads: UploadRun | None, expected: str) -> None:
    assert failing(found(run, uploads)) == [expected]


@pytest.mark.parametrize(
    ("watched", "expected"),
    [
        (replica(slope=300), "slope of resident memory, bytes a request"),
        (replica(more=9), "more descriptors than after the first round"),
    ],
)
def test_every_claim_about_the_gateway_can_fail(watched: Replica, expected: str) -> None:
    assert failing(found(watched=watched), watched) == [expected]


def test_designed_answers_are_good_answers() -> None:
    assert failing(found(contract(s503=30, s504=2))) == []


def test_an_operation_of_which_nothing_was_drawn_fails_and_is_named() -> None:
    run = contract()
    run.drawn = Counter({"POST /parameters": 100})

    (claim,) = (each for each in claims(list(found(run).values()), None, examples=100, damaged=51) if not each.holds)

    assert (claim.what, claim.found) == ("operations with a request", "1 of 2, not GET /livez")


def test_too_few_requests_fail_and_so_does_a_document_without_operations() -> None:
    run = contract()
    run.drawn["POST /parameters"] = 89

    assert failing(found(run)) == ["requests drawn from the OpenAPI document"]
    assert "operations with a request" in failing({UPLOADS: found()[UPLOADS]})
