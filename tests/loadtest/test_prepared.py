"""Requests made before the clock runs, and what is found in the replies when it has stopped."""

import json

import pytest

from loadtest.lean_client import Exchange
from loadtest.prepared import Target, judged, prepare
from loadtest.profiles import NetworkMix
from loadtest.replies import ServedVersion
from loadtest.timeline import LAG, LATENCY
from tests.loadtest.serving_fake import FULL, TABLE, ServingFake, answer, keep, manifest_bytes

SERVED = ServedVersion.read(manifest_bytes())
WIFI = NetworkMix({"wifi": 1})


@pytest.fixture(scope="module")
def cloud():
    with ServingFake() as fake:
        yield fake


def made(cloud, **options):
    target = Target(cloud.url, "demo", "secret")
    return prepare(target, target.served(), world="tiny", mix=WIFI, **{"count": 60, "server_share_ms": 50.0} | options)


def message(status, headers, body):
    lines = [f"HTTP/1.1 {status} X", *(f"{name.title()}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def exchange(reply, *, number=0, latency_s=0.01, is_kept=True, late_s=0.0):
    status, headers, body = reply
    whole = message(status, headers, body) if is_kept else b""
    return Exchange(number, 1.5, 1.5 + late_s, 1.5 + latency_s, status, len(body), whole)


def test_a_message_is_a_whole_request_of_the_api(cloud):
    first = made(cloud)[0]

    head, _, body = first.message.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/models/demo/parameters HTTP/1.1"
    assert "Authorization: Bearer secret" in lines
    assert f"Content-Length: {len(body)}" in lines
    asked = json.loads(body)
    assert asked["sample"] == first.sample
    assert asked["budget_ms"] == pytest.approx(first.budget_ms, abs=0.1)
    assert first.body_bytes == len(body)


def test_one_seed_makes_one_set_of_requests(cloud):
    first, same, other = made(cloud), made(cloud), made(cloud, seed=1)

    assert first == same
    assert first != other


def test_a_device_holds_what_it_would_have_got_for_its_last_request(cloud):
    requests = made(cloud, count=300)

    held = [json.loads(each.message.partition(b"\r\n\r\n")[2]).get("current") for each in requests]
    known = {answer(each.sample)[1]["duet-tag"] for each in requests}
    assert held[0] is None
    assert 0.3 < sum(each is not None for each in held) / 300 < 1
    assert all(each is None or each["tag"] in known for each in held)
    assert [each and each["tag"] for each in held] == [each.held_tag for each in requests]
    assert any(each.held_tag == answer(each.sample)[1]["duet-tag"] for each in requests)


def test_forgetful_devices_hold_nothing_and_nobody_is_asked(cloud):
    asked = len(cloud.asked)

    requests = made(cloud, is_forgetful=True)

    assert len(cloud.asked) == asked
    assert not any(b"current" in each.message or each.held_tag for each in requests)


def test_a_model_that_is_not_served_names_those_that_are(cloud):
    with pytest.raises(ValueError, match=r"got --model films\. Use one of: demo"):
        Target(cloud.url, "films").served()


def test_nobody_there_is_a_sentence():
    with pytest.raises(ValueError, match=r"Expected a manifest from http://127.0.0.1:9, got: .+"):
        Target("http://127.0.0.1:9", "demo").served()


def of_sample(request, **options):
    return answer(request.sample, **options)


@pytest.mark.parametrize(
    ("reply", "latency_s", "outcome", "fault"),
    [
        (of_sample, 0.01, "in-time", None),
        (of_sample, 0.06, "late", None),
        (lambda _: answer([1, 2, 3]), 0.01, "failed", "parameters of another sample"),
        (
            lambda request: of_sample(request, manifest=manifest_bytes("v2")),
            0.01,
            "failed",
            "a version that is not served",
        ),
        (
            lambda request: (200, of_sample(request)[1], b"not a package"),
            0.01,
            "failed",
            "corrupt_package",
        ),
        (lambda request: keep(request.sample), 0.01, "failed", "told to keep what is not held"),
        (lambda _: (429, {}, b'{"code": "overloaded"}'), 0.01, "shed", "shed: 429 overloaded"),
        (lambda _: (422, {}, b'{"code": "budget_too_small"}'), 0.01, "refused", "refused: 422 budget_too_small"),
        (lambda _: (504, {}, b""), 0.01, "late", "refused: 504"),
        (lambda _: (500, {}, b""), 0.01, "failed", "refused: 500"),
        (lambda _: (0, {}, b""), 0.01, "failed", "refused: no answer"),
    ],
)
def test_a_reply_is_verified_and_the_budget_decides(reply, latency_s, outcome, fault, cloud):
    requests = made(cloud, is_forgetful=True)

    timeline = judged([exchange(reply(requests[0]), latency_s=latency_s)], requests, [SERVED], is_open_loop=False)

    second = timeline.seconds[1]
    assert second.of("outcome") == {outcome: 1}
    assert second.counts["due"] == 1
    assert [name.startswith(fault or "-") for name in second.of("fault")] == ([] if fault is None else [True])
    assert second.of("version") == ({SERVED.digest.hex()[:8]: 1} if fault is None else {})
    if fault is None:
        assert second.quantile_ms(LATENCY, 1) == pytest.approx(1000 * latency_s, abs=0.1)
        assert second.of("plan") == {"factors-r2-int8": 1}


def test_the_package_travels_on_the_network_of_the_device(cloud):
    requests = prepare(
        Target(cloud.url, "demo"),
        SERVED,
        world="tiny",
        mix=NetworkMix({"slow-3g": 1}),
        count=1,
        server_share_ms=50.0,
        is_forgetful=True,
    )
    # the budget has the network of the largest package in it: the same latency is in time with a smaller one only
    spared_ms = requests[0].link.download_ms(TABLE.package_bytes(FULL) - 1) / 2
    latency_s = 0.05 + spared_ms / 1000

    found = [
        judged(
            [exchange(of_sample(requests[0], representation=record.representation), latency_s=latency_s)],
            requests,
            [SERVED],
            is_open_loop=False,
        ).total.of("outcome")
        for record in SERVED.manifest.representations
    ]

    assert TABLE.package_bytes(FULL) == SERVED.largest_package_bytes
    assert found[-1] == {"late": 1}


def test_a_reply_with_the_bytes_of_before_is_what_that_one_was(cloud):
    requests = made(cloud, is_forgetful=True)
    good, wrong = of_sample(requests[0]), answer([1, 2, 3])

    def total(*replies):
        found = [each for reply in replies for each in (exchange(reply), exchange(reply, is_kept=False))]
        return judged(found, requests, [SERVED], is_open_loop=False).total

    both = total(good, wrong, good)
    assert both.of("outcome") == {"in-time": 4, "failed": 2}
    assert both.of("version") == {SERVED.digest.hex()[:8]: 4}
    assert both.of("fault") == {"parameters of another sample": 2}


def test_a_204_for_what_is_held_is_a_keep(cloud):
    requests = made(cloud, count=300)
    number = next(n for n, each in enumerate(requests) if each.held_tag == answer(each.sample)[1]["duet-tag"])

    total = judged(
        [exchange(keep(requests[number].sample), number=number)], requests, [SERVED], is_open_loop=False
    ).total

    assert total.of("outcome") == {"in-time": 1}
    assert total.of("rung") == {"keep": 1}


def test_in_open_loop_times_count_from_when_it_was_due(cloud):
    requests = made(cloud, is_forgetful=True)
    sent = exchange(of_sample(requests[0]), latency_s=0.03, late_s=0.02)

    total = judged([sent], requests, [SERVED], is_open_loop=True, dropped_s=[1.2, 1.7]).total

    assert total.quantile_ms(LAG, 1) == pytest.approx(20, abs=0.1)
    assert total.quantile_ms(LATENCY, 1) == pytest.approx(30, abs=0.1)
    assert (total.counts["due"], total.counts["dropped"]) == (3, 2)
