"""No reply of a cloud is believed."""

import json

import pytest

from duet.protocol.budget import PROFILES
from duet.protocol.errors import CorruptVersion
from loadtest.replies import BadReply, OtherVersion, Refusal, ServedVersion, delivered_ms, model_names, verify_reply
from tests.loadtest.serving_fake import FULL, TABLE, answer, keep, manifest_bytes

SAMPLE, OTHER = [1001, 1002, 1003], [1002, 1003, 1004]


@pytest.fixture
def served():
    return ServedVersion.read(manifest_bytes())


def changed(reply, *, headers=None, body=None, status=None):
    old_status, old_headers, old_body = reply
    return (
        old_status if status is None else status,
        old_headers | (headers or {}),
        old_body if body is None else body(old_body),
    )


def test_a_sound_package_is_what_the_manifest_and_the_sample_promise(served):
    reply = verify_reply(*answer(SAMPLE), served=served, sample=SAMPLE)

    assert str(reply.representation) == "factors-r2-int8"
    assert (reply.version, reply.predicted_ms, reply.server_ms) == (served.digest.hex(), 90.5, 2.5)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"models": [1]}', b"[" * 100_000], ids=lambda body: body[:14])
def test_a_cloud_that_does_not_say_what_it_serves_serves_nothing_that_is_known(body):
    assert model_names(body) == []


def test_the_models_of_a_cloud_are_read_by_name():
    assert model_names(b'{"models": [{"name": "films"}, {"name": "songs"}]}') == ["films", "songs"]


def test_a_device_may_be_told_to_keep_what_it_holds(served):
    tag = answer(SAMPLE)[1]["duet-tag"]

    reply = verify_reply(*keep(SAMPLE), served=served, sample=SAMPLE, held_tag=tag)

    assert (reply.representation, reply.tag) == (None, tag)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (changed(answer(SAMPLE), body=lambda body: body[:-1]), "corrupt_package"),
        (changed(answer(SAMPLE), body=lambda body: body[:80] + bytes([body[80] ^ 1]) + body[81:]), "corrupt_package"),
        (changed(answer(SAMPLE), body=lambda body: b""), "corrupt_package"),
        (changed(answer(SAMPLE), body=lambda body: answer(OTHER, manifest=manifest_bytes("v2"))[2]), "wrong_version"),
        (answer(OTHER), "another sample"),
        (changed(answer(SAMPLE), body=lambda body: answer(OTHER)[2]), "another sample"),
        (changed(answer(SAMPLE), headers={"duet-tag": "00" * 8}), "another sample"),
        (changed(answer(SAMPLE), headers={"duet-plan": "full-float16"}), "planned full-float16"),
        (changed(answer(SAMPLE), headers={"content-type": "application/json"}), "content type"),
        (changed(answer(SAMPLE), headers={"duet-server-ms": "fast"}), "duet-server-ms"),
        (keep(SAMPLE), "not held"),
        (changed(keep(SAMPLE), body=lambda body: b"more"), "not held"),
    ],
    ids=[
        *(
            "truncated",
            "flipped bit",
            "empty",
            "body of another version",
            "another device's",
            "another device's body",
            "wrong tag",
        ),
        *("wrong plan", "content type", "no server time", "keep nothing", "keep with a body"),
    ],
)
def test_a_reply_that_breaks_a_promise_is_bad(served, reply, reason):
    with pytest.raises(BadReply, match=reason):
        verify_reply(*reply, served=served, sample=SAMPLE)


def test_a_representation_that_the_manifest_does_not_offer_is_bad():
    manifest = json.loads(manifest_bytes())
    manifest["representations"] = [each for each in manifest["representations"] if "full" in each["representation"]]
    data = json.dumps(manifest).encode()
    served = ServedVersion.read(data)

    with pytest.raises(BadReply, match="sent factors"):
        verify_reply(*answer(SAMPLE, manifest=data), served=served, sample=SAMPLE)
    assert verify_reply(*answer(SAMPLE, manifest=data, representation=FULL), served=served, sample=SAMPLE)


def test_another_version_is_told_apart_from_a_bad_reply(served):
    with pytest.raises(OtherVersion):
        verify_reply(*answer(SAMPLE, manifest=manifest_bytes("v2")), served=served, sample=SAMPLE)


@pytest.mark.parametrize(
    ("status", "headers", "body", "text", "is_shed", "retry_after_s"),
    [
        (429, {"retry-after": "2"}, b'{"code": "overloaded"}', "shed: 429 overloaded", True, 2.0),
        (503, {}, b"<html>", "shed: 503", True, 0.0),
        (504, {}, b'{"code": "deadline_exceeded"}', "refused: 504 deadline_exceeded", False, 0.0),
        (422, {"retry-after": "soon"}, b"[1]", "refused: 422", False, 0.0),
        (429, {"retry-after": "1e9"}, b"[" * 100_000, "shed: 429", True, 60.0),
        (0, {}, b"", "refused: no answer", False, 0.0),
    ],
    ids=["429", "503", "504", "422", "endless", "no answer"],
)
def test_a_refusal_says_which_one_it_is(served, status, headers, body, text, is_shed, retry_after_s):
    with pytest.raises(Refusal) as raised:
        verify_reply(status, headers, body, served=served, sample=SAMPLE)

    assert (str(raised.value), raised.value.is_shed, raised.value.retry_after_s) == (text, is_shed, retry_after_s)


def test_delivered_time_is_what_was_measured_and_the_network():
    link = PROFILES["slow-4g"]

    total_ms = delivered_ms(12.0, link=link, request_bytes=200, response_bytes=1000)

    assert total_ms == 12.0 + link.exchange_ms(request_bytes=200, response_bytes=1000)


def test_the_largest_package_is_what_a_budget_must_allow_for(served):
    assert served.largest_package_bytes == TABLE.package_bytes(FULL)
    assert served.sample_length == 10


def test_a_manifest_that_is_none_is_refused():
    with pytest.raises(CorruptVersion):
        ServedVersion.read(b"<html>")
