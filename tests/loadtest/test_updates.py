"""One update: retries with growing pauses, the budget that decides, versions that are followed."""

from random import Random

import pytest

from loadtest.faulty_requests import malformed_requests, oversized_request
from loadtest.profiles import NetworkMix, Population, SimulatedDevice
from loadtest.replies import BadReply, ServedVersion
from loadtest.updates import KnownVersions, Response, RetryPolicy, Updater
from tests.loadtest.serving_fake import answer, keep, manifest_bytes, refusal_of

HISTORIES = [list(range(1, 60)), list(range(100, 160))]
PROBLEM = {"content-type": "application/problem+json"}


class Script:
    """A cloud that gives these answers one after the other, the last one for ever, each after so many ms."""

    def __init__(self, *answers, ms=5.0, manifests=()):
        self.answers, self.ms, self.manifests = list(answers), ms, list(manifests) or [manifest_bytes()]
        self.now_s, self.pauses, self.bodies, self.downloads = 100.0, [], [], 0

    def clock(self):
        return self.now_s

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.now_s += seconds

    def post(self, body, judge):
        self.bodies.append(body)
        made = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        sent_s, self.now_s = self.now_s, self.now_s + self.ms / 1000
        status, headers, content = made(self.sample) if callable(made) else made
        response = Response(status, headers, content, sent_s, self.now_s)
        return response, judge(response)

    def manifest(self, device):
        self.downloads += 1
        return ServedVersion.read(self.manifests.pop(0) if len(self.manifests) > 1 else self.manifests[0])


def updated(cloud, *, profile="wifi", waited_s=0.0, held=None, **options):
    """Let one device ask once; it wanted to ``waited_s`` ago."""
    device = SimulatedDevice(HISTORIES, length=10, profile=profile, random=Random(3))
    if held is not None:
        device.hold(version=held[1]["duet-version"], tag=held[1]["duet-tag"], now_s=99.0)
    cloud.sample = device.sample
    updater = Updater(cloud, KnownVersions(cloud), cloud.clock, cloud.pause, **options)
    return updater.update("phone", device, due_s=cloud.now_s - waited_s), device


def test_an_update_in_time_is_held_by_the_device():
    update, device = updated(Script(answer))

    assert (update.outcome, update.answer, update.plan, update.retries) == ("in-time", "plan", "factors-r2-int8", 0)
    assert update.latency_ms == update.service_ms == pytest.approx(5)
    assert update.delivered_ms > update.latency_ms
    assert device.held_tag == answer(device.sample)[1]["duet-tag"]


def test_the_budget_decides_and_it_runs_from_when_the_update_was_due():
    in_time, _ = updated(Script(answer), waited_s=0.04)
    late, _ = updated(Script(answer), waited_s=0.06)

    assert (in_time.outcome, late.outcome) == ("in-time", "late")
    assert late.service_ms == pytest.approx(5)
    assert late.latency_ms == pytest.approx(65)


@pytest.mark.parametrize("profile", ["slow-3g", "wifi"])
def test_the_server_has_its_share_on_every_network(profile):
    assert updated(Script(answer, ms=45), profile=profile)[0].outcome == "in-time"
    assert updated(Script(answer, ms=56), profile=profile)[0].outcome == "late"


@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (429, {"retry-after": "2"}, "shed"),
        (503, {"retry-after": "1"}, "shed"),
        (500, {}, "failed"),
        (0, {}, "failed"),
    ],
)
def test_what_is_shed_or_lost_is_tried_again(status, headers, outcome):
    cloud = Script((status, headers, b""), answer)

    update, _ = updated(cloud)
    given_up, _ = updated(Script((status, headers, b"")))

    assert (update.retries, update.answer) == (1, "plan")
    assert cloud.bodies[0] == cloud.bodies[1]
    assert cloud.pauses[0] >= float(headers.get("retry-after", 0.125))
    assert (given_up.outcome, given_up.retries, given_up.plan) == (outcome, 2, None)


@pytest.mark.parametrize(("status", "outcome"), [(422, "refused"), (400, "refused"), (504, "late")])
def test_what_asking_again_does_not_mend_is_not_tried_again(status, outcome):
    update, _ = updated(Script((status, PROBLEM, b'{"code": "budget_too_small"}')))

    assert (update.outcome, update.retries) == (outcome, 0)
    assert update.fault.endswith(f"{status} budget_too_small")


def test_a_damaged_package_is_failed_and_not_held():
    def damaged(sample):
        status, headers, body = answer(sample)
        return status, headers, body[:-1] + bytes([body[-1] ^ 1])

    update, device = updated(Script(damaged))

    assert (update.outcome, update.answer, update.retries) == ("failed", None, 0)
    assert device.held_tag is None


def test_a_device_keeps_what_it_is_told_to_keep():
    device = SimulatedDevice(HISTORIES, length=10, profile="wifi", random=Random(3))

    update, _ = updated(Script(keep), held=answer(device.sample))

    assert (update.outcome, update.answer, update.plan) == ("in-time", "keep", "keep")


def test_a_forgetful_device_does_not_say_what_it_holds():
    device = SimulatedDevice(HISTORIES, length=10, profile="wifi", random=Random(3))
    told, forgetful = Script(answer), Script(answer)

    updated(told, held=answer(device.sample))
    updated(forgetful, held=answer(device.sample), shows_current=False)

    assert b'"current"' in told.bodies[0]
    assert b'"current"' not in forgetful.bodies[0]


def test_another_version_is_believed_if_the_cloud_says_that_it_serves_it():
    first, second = manifest_bytes("v1"), manifest_bytes("v2")
    rolled_over = lambda sample: answer(sample, manifest=second)  # noqa: E731

    followed, _ = updated(Script(rolled_over, manifests=[first, second]))
    foreign, _ = updated(Script(rolled_over, manifests=[first]))

    assert followed.outcome == "in-time"
    assert (foreign.outcome, foreign.fault) == ("failed", "a version that is not served")


def test_both_versions_are_known_while_gateways_flip():
    first, second = manifest_bytes("v1"), manifest_bytes("v2")
    cloud = Script(answer, manifests=[first, second])
    versions = KnownVersions(cloud)

    old, new = versions.read("phone"), versions.read("phone")

    assert versions.of(old.digest.hex(), "phone").manifest.version == "v1"
    assert versions.of(new.digest.hex(), "phone").manifest.version == "v2"
    assert cloud.downloads == 2
    with pytest.raises(BadReply, match="not served"):
        versions.of("00" * 32, "phone")


def test_pauses_grow_are_spread_and_never_shorter_than_asked_for():
    policy, random = RetryPolicy(first_s=1.0, longest_s=4.0), Random(1)

    for attempt, expected_s in enumerate((1.0, 2.0, 4.0, 4.0)):
        drawn = [policy.pause_s(attempt, 0.0, random) for _ in range(200)]
        assert 0.5 * expected_s <= min(drawn) < 0.7 * expected_s
        assert 1.3 * expected_s < max(drawn) <= 1.5 * expected_s
    assert min(policy.pause_s(0, 10.0, random) for _ in range(100)) >= 10


def test_faulty_requests_are_wrong_and_judged_by_the_documented_refusals():
    device = SimulatedDevice(HISTORIES, length=10, profile="wifi", random=Random(3))
    request = {**device.request("phone", now_s=0.0), "budget_ms": 60.0}

    for faulty in (*malformed_requests(request), oversized_request(request)):
        status = refusal_of(faulty.body, faulty.content_type)
        assert faulty.judge(status, PROBLEM, b'{"code": "x"}') is None
        assert "without a problem" in faulty.judge(status, {"content-type": "text/html"}, b"<html>")
        assert "got 200" in faulty.judge(200, {}, b"")
        assert "got 500" in faulty.judge(500, PROBLEM, b'{"code": "x"}')


def test_some_devices_ask_much_more_often_than_others():
    made = Population(HISTORIES, 100, length=10, mix=NetworkMix({"lte": 1}), random=Random(1), skew=1.0)

    drawn = [made.draw() for _ in range(20_000)]

    counts = [sum(number == rank for number, _ in drawn) for rank in (0, 1, 9)]
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.15)
    assert counts[0] / counts[2] == pytest.approx(10, rel=0.25)
    assert len({id(device) for number, device in drawn if number == 0}) == 1
