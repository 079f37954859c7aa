"""Every way in which asking can fail, and what the device does about it: keep, say why, repeat once or wait."""

import httpx
import numpy as np
import pytest

from duet.protocol import access_errors, errors
from tests.duet.device.fake_cloud import corrupted, problem

SAMPLE = [101, 109, 117]
LATER = [109, 117, 120]
REMEDY = "Check that the address is that of a DUET server, and that it is of the version of this library."


def flip(body):
    body[70] ^= 0x10
    return bytes(body)


FAILURES = {
    "404 unknown model": (
        lambda cloud: problem(404, "unknown_model", model="films", known=["books"]),
        errors.UnknownModel,
    ),
    "404 without a problem": (lambda cloud: lambda request: httpx.Response(404), errors.InvalidRequest),
    "400": (lambda cloud: problem(400, "invalid_request"), errors.InvalidRequest),
    "401": (lambda cloud: problem(401, "unauthorized"), access_errors.Unauthorized),
    "401 of a proxy": (lambda cloud: lambda request: httpx.Response(401), access_errors.Unauthorized),
    "422 invalid sample": (
        lambda cloud: problem(422, "invalid_sample", expected="a list", received="x", remedy="Send a list."),
        errors.InvalidSample,
    ),
    "422 budget": (
        lambda cloud: problem(422, "budget_too_small", budget_ms=20, smallest_ms=71.5),
        errors.BudgetTooSmall,
    ),
    "422 with senseless facts": (
        lambda cloud: problem(422, "budget_too_small", budget_ms="x", smallest_ms=None),
        errors.InvalidRequest,
    ),
    "429": (lambda cloud: problem(429, "overloaded", {"Retry-After": "2"}), errors.Overloaded),
    "429 of a proxy": (lambda cloud: lambda request: httpx.Response(429), errors.Overloaded),
    "500 not finite": (
        lambda cloud: problem(500, "non_finite_parameters", model="films", version="v1"),
        errors.NonFiniteParameters,
    ),
    "502": (lambda cloud: lambda request: httpx.Response(502, content=b"<html>" * 50), errors.CloudUnreachable),
    "503": (lambda cloud: problem(503, "version_not_ready", model="films", version="v2"), errors.VersionNotReady),
    "504": (
        lambda cloud: problem(504, "deadline_exceeded", budget_ms=200, elapsed_ms=300),
        errors.DeadlineExceeded,
    ),
    "redirect to a login page": (
        lambda cloud: lambda request: httpx.Response(302, headers={"Location": "http://login.test"}),
        errors.CloudUnreachable,
    ),
    "login page": (lambda cloud: lambda request: httpx.Response(200, content=b"<html>" * 50), errors.CorruptPackage),
    "empty body": (lambda cloud: lambda request: httpx.Response(200), errors.CorruptPackage),
    "truncated body": (lambda cloud: corrupted(cloud, lambda body: bytes(body[:-1])), errors.CorruptPackage),
    "flipped bit": (lambda cloud: corrupted(cloud, flip), errors.CorruptPackage),
    "endless body": (
        lambda cloud: lambda request: httpx.Response(200, content=(bytes(2**16) for _ in range(1000))),
        errors.CloudUnreachable,
    ),
    "error nested without end": (
        lambda cloud: lambda request: httpx.Response(400, content=b"[" * 50000),
        errors.InvalidRequest,
    ),
    "read timeout": (lambda cloud: httpx.ReadTimeout("slow"), errors.CloudUnreachable),
    "connect timeout": (lambda cloud: httpx.ConnectTimeout("slow"), errors.CloudUnreachable),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("is_fresh", [True, False], ids=["on shared", "on personal"])
def test_a_failed_update_keeps_what_is_in_place_and_says_why(make_device, cloud, clock, failure, is_fresh):
    make_fault, kind = FAILURES[failure]
    device = make_device()
    device.prepare() if is_fresh else device.update(SAMPLE)
    scores, representation = device.model.scores(SAMPLE), device.representation
    cloud.fail(make_fault(cloud))

    update = device.update(LATER)

    assert (update.status, type(update.error)) == ("failed", kind)
    assert update.representation == device.representation == representation
    np.testing.assert_array_equal(device.model.scores(SAMPLE), scores)
    clock.now += 3600
    assert device.update(LATER).status == "updated"


def test_an_error_can_be_raised_instead(device, cloud):
    device.prepare()
    cloud.fail(problem(422, "budget_too_small", budget_ms=20, smallest_ms=71.5))

    with pytest.raises(errors.BudgetTooSmall) as raised:
        device.update(SAMPLE, raise_on_error=True)

    assert raised.value.smallest_ms == 71.5


def test_a_sample_that_is_none_costs_no_request(device, cloud):
    update = device.update(["not", 1.5])

    assert (update.status, type(update.error)) == ("failed", errors.InvalidSample)
    assert cloud.asked == []


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("cut"),
        problem(500, "internal_error"),
    ],
    ids=["refused", "reset", "cut", "500"],
)
def test_a_broken_exchange_is_repeated_once_with_what_is_left_of_the_budget(make_device, cloud, clock, fault):
    device = make_device(budget_ms=200)
    device.prepare()

    def fail_late(request):
        clock.now += 0.05
        if isinstance(fault, Exception):
            raise fault
        return fault(request)

    cloud.fail(fail_late)
    update = device.update(SAMPLE)

    assert (update.status, update.attempts) == ("updated", 2)
    assert [asked["budget_ms"] for asked in cloud.asked] == pytest.approx([200, 150])


def test_a_broken_exchange_is_not_repeated_a_second_time_nor_after_the_budget(device, cloud, clock):
    device.prepare()
    cloud.fail(httpx.ReadError("reset"), httpx.ReadError("reset"))
    assert isinstance(device.update(SAMPLE).error, errors.CloudUnreachable)
    assert len(cloud.asked) == 2

    def fail_late(request):
        clock.now += 0.25
        raise httpx.ReadError("reset")

    cloud.fail(fail_late)
    assert isinstance(device.update(SAMPLE).error, errors.CloudUnreachable)
    assert len(cloud.asked) == 3


@pytest.mark.parametrize("elapsed_s", [0.1, 0.5])
def test_a_broken_exchange_is_not_repeated_when_the_time_to_wait_is_over(make_device, cloud, clock, elapsed_s):
    device = make_device(budget_ms=2000, timeout_s=0.1)
    device.prepare()

    def fail_late(request):
        clock.now += elapsed_s
        raise httpx.ReadError("reset")

    cloud.fail(fail_late)
    update = device.update(SAMPLE)

    assert (update.status, type(update.error)) == ("failed", errors.CloudUnreachable)
    assert "reset" in str(update.error)
    assert len(cloud.asked) == 1


DETAIL = "The server met an error of its own. " + "Keep the current parameters and retry later. " * 3 + "The end."


@pytest.mark.parametrize("status", [500, 502])
def test_a_failure_of_the_cloud_comes_with_all_it_said_and_the_id_of_the_request(device, cloud, caplog, status):
    device.prepare()
    fault = problem(status, "internal_error", detail=DETAIL, request_id="7f-31")
    cloud.fail(fault, fault)

    update = device.update(SAMPLE)

    assert isinstance(update.error, errors.CloudUnreachable)
    assert update.error.__notes__ == [f"The cloud said: {DETAIL}", "Request id: 7f-31"]
    assert DETAIL in caplog.text
    assert "7f-31" in caplog.text


def test_a_failure_that_is_known_says_nothing_twice(device, cloud):
    device.prepare()
    facts = {"model": "films", "version": "v1"}
    detail = str(errors.NonFiniteParameters(**facts))
    cloud.fail(problem(500, "non_finite_parameters", detail=detail, request_id="7f-31", **facts))

    error = device.update(SAMPLE).error

    assert isinstance(error, errors.NonFiniteParameters)
    assert error.__notes__ == ["Request id: 7f-31"]


@pytest.mark.parametrize("said", ["\x1b[31mred\n" * 1000, 7, None, {}], ids=["noise", "number", "null", "object"])
def test_what_the_cloud_says_is_one_bounded_line_of_text(device, cloud, said):
    device.prepare()
    fault = problem(502, "internal_error", detail=said, request_id=said)
    cloud.fail(fault)

    notes = getattr(device.update(SAMPLE).error, "__notes__", [])

    assert len(notes) == (2 if isinstance(said, str) else 0)
    assert all(note.isprintable() and len(note) < 700 for note in notes)


def test_a_refusal_that_nobody_knows_says_what_to_do(device, cloud):
    device.prepare()
    cloud.fail(lambda request: httpx.Response(418), problem(404, "not_found", detail="No such path"))

    assert str(device.update(SAMPLE).error).endswith(f"it answered 418. {REMEDY}")
    assert str(device.update(SAMPLE).error).endswith(f"it answered 404, not_found: No such path. {REMEDY}")


def test_a_body_that_trickles_is_cut_off(make_device, cloud, clock):
    device = make_device(budget_ms=2000)
    device.prepare()

    def trickle():
        while True:
            clock.now += 1
            yield b"D"

    cloud.fail(lambda request: httpx.Response(200, content=trickle()))
    update = device.update(SAMPLE)

    assert isinstance(update.error, errors.CloudUnreachable)
    assert update.measured_ms <= 5000


@pytest.mark.parametrize(("budget_ms", "timeout_s"), [(100, 1.0), (3000, 6.0)])
def test_waits_on_the_network_follow_the_budget(make_device, cloud, budget_ms, timeout_s):
    make_device(budget_ms=budget_ms).update(SAMPLE)

    assert set(cloud.requests[-1].extensions["timeout"].values()) == {timeout_s}


@pytest.mark.parametrize(
    ("fault", "wait_s"),
    [
        (problem(429, "overloaded", {"Retry-After": "7"}), 7),
        (problem(429, "overloaded"), 1),
        (problem(429, "overloaded", {"Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT"}), 1),
        (problem(429, "overloaded", {"Retry-After": "1e12"}), 3600),
        (problem(503, "", {"Retry-After": "7"}), 7),
    ],
    ids=["seconds", "none", "date", "for ever", "503"],
)
def test_a_cloud_that_asks_to_be_left_alone_is(device, cloud, clock, fault, wait_s):
    device.prepare()
    cloud.fail(fault)
    device.update(SAMPLE)

    clock.now += wait_s - 0.5
    update = device.update(SAMPLE)

    assert isinstance(update.error, errors.Overloaded)
    assert update.error.retry_after_s == pytest.approx(0.5)
    assert len(cloud.asked) == 1
    clock.now += 0.5
    assert device.update(SAMPLE).status == "updated"
