"""A device that sends embeddings: its samples stay with it, and the encoder moves with the version."""

import base64
import json

import httpx
import numpy as np
import pytest

import tests.duet.device.tiny_network as tiny
from duet.protocol import errors
from duet.protocol.access_errors import ForgedPackage
from duet.protocol.embedding_errors import InvalidEmbedding, NoEncoder, WrongEncoder
from duet.protocol.package import ParameterPackage
from duet.protocol.signing import HEADER, SigningKey
from tests.duet.device.fake_cloud import problem, values_for

SAMPLE, LATER = [101, 109, 117], [109, 117, 120]


@pytest.fixture
def device(make_device):
    return make_device(sends="embedding")


def sent(asked):
    return np.frombuffer(base64.b64decode(asked["embedding"]["values"]), "<f2")


def test_the_embedding_is_sent_and_the_sample_is_not(device, cloud):
    update = device.update(SAMPLE)

    (asked,) = cloud.asked
    assert update.status == "updated"
    assert "sample" not in asked
    assert asked["embedding"]["version"] == cloud.digest.hex()
    # one rounding to float16 of what the oracle computes in float32
    np.testing.assert_allclose(sent(asked), tiny.embed(SAMPLE), rtol=2**-11, atol=1e-6)
    assert not [item for item in SAMPLE if str(item).encode() in cloud.requests[-1].content]


def test_the_parameters_in_place_are_those_for_the_embedding(device, cloud):
    device.update(SAMPLE)

    brought = [int.from_bytes(sent(cloud.asked[0]).tobytes())]
    decoded = ParameterPackage.decode(cloud.package(brought), tiny.TABLE)
    expected = tiny.forward(SAMPLE, decoded.compose(tiny.SHARED))
    np.testing.assert_allclose(device.model.scores(SAMPLE), expected, rtol=1e-4, atol=1e-4)


def test_parameters_that_are_still_right_are_kept(device, cloud):
    device.update(SAMPLE)

    again, later = device.update(SAMPLE), device.update(LATER)

    assert (again.status, later.status) == ("kept", "updated")
    assert cloud.asked[1]["current"]["version"] == cloud.digest.hex()


def test_the_encoder_is_downloaded_once_and_kept_with_the_device_model(device, cloud, make_device, tmp_path):
    device.prepare()
    device.update(SAMPLE)
    make_device(sends="embedding").update(LATER)

    assert cloud.downloads == ["/", "/device-model", "/encoder"]
    kept = tmp_path / "cache" / "films" / cloud.digest.hex() / "encoder.onnx"
    assert kept.read_bytes() == tiny.ENCODER_FIXTURES["v1"].read_bytes()


def test_a_device_that_sends_samples_downloads_no_encoder(make_device, cloud):
    make_device().update(SAMPLE)

    assert cloud.downloads == ["/", "/device-model"]
    assert "embedding" not in cloud.asked[0]


@pytest.mark.parametrize("content", [b"", b"not an encoder", tiny.ENCODER_FIXTURES["v2"].read_bytes()])
def test_a_damaged_encoder_on_disk_is_downloaded_again(device, cloud, make_device, tmp_path, content):
    device.prepare()
    (tmp_path / "cache" / "films" / cloud.digest.hex() / "encoder.onnx").write_bytes(content)

    assert make_device(sends="embedding").update(SAMPLE).status == "updated"
    assert cloud.downloads.count("/encoder") == 2
    np.testing.assert_allclose(sent(cloud.asked[0]), tiny.embed(SAMPLE), rtol=2**-11, atol=1e-6)


def test_an_encoder_that_is_not_the_one_of_the_manifest_is_not_run_and_the_device_predicts(device, cloud):
    device.model  # noqa: B018  # downloads it
    cloud.fail(lambda request: httpx.Response(200, content=tiny.ENCODER_FIXTURES["v2"].read_bytes()))

    update = device.update(SAMPLE)

    assert (update.status, type(update.error)) == ("failed", NoEncoder)
    assert "hashes" in str(update.error)
    assert not cloud.asked
    assert len(device.predict(SAMPLE)) == 10
    assert device.update(SAMPLE).status == "updated"


def test_a_graph_that_is_no_encoder_is_refused_though_the_manifest_names_it(device, cloud, monkeypatch):
    monkeypatch.setitem(tiny.ENCODER_FIXTURES, "v2", tiny.FIXTURE)
    cloud.publish("v2")

    with pytest.raises(NoEncoder, match=r"instead of embedding \[4\]"):
        device.prepare()


def test_a_full_disk_costs_the_cache_and_nothing_else(make_device, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    device = make_device(cache=tmp_path / "file" / "cache", sends="embedding")

    assert device.update(SAMPLE).status == "updated"
    assert "without a cache" in caplog.text


def test_an_outdated_encoder_is_replaced_and_the_question_asked_once_more(device, cloud, make_device):
    device.update(SAMPLE)
    cloud.publish("v2")

    update = device.update(LATER)

    assert (update.status, update.model_replaced, device.manifest.version) == ("updated", True, "v2")
    assert cloud.downloads[3:] == ["/", "/device-model", "/encoder"]
    refused, asked = cloud.asked[1:]
    np.testing.assert_allclose(sent(refused), tiny.embed(LATER, "v1"), rtol=2**-11, atol=1e-6)
    np.testing.assert_allclose(sent(asked), tiny.embed(LATER, "v2"), rtol=2**-11, atol=1e-6)
    assert asked["embedding"]["version"] == cloud.digest.hex()
    assert make_device(sends="embedding").manifest.version == "v2"


def test_it_is_asked_once_more_and_not_again(device, cloud):
    device.update(SAMPLE)
    scores = device.model.scores(SAMPLE)
    cloud.publish("v2")
    facts = {"model": "films", "version": "v2", "served": "2" * 32, "received": "1" * 32}
    cloud.fail(cloud.answer, cloud.answer, cloud.answer, cloud.answer, problem(409, "wrong_encoder", **facts))

    update = device.update(LATER)

    assert (update.status, type(update.error)) == ("failed", WrongEncoder)
    assert (device.manifest.version, len(cloud.asked)) == ("v1", 3)
    np.testing.assert_array_equal(device.model.scores(SAMPLE), scores)


@pytest.mark.parametrize("step", ["manifest", "device model", "encoder", "second request"])
def test_a_new_version_that_does_not_arrive_whole_leaves_the_old_one_at_work(device, cloud, step):
    device.update(SAMPLE)
    cloud.publish("v2")
    whole = ["manifest", "device model", "encoder", "second request"].index(step) + 1
    cloud.fail(*[cloud.answer] * whole, httpx.ReadTimeout("slow"))

    update = device.update(LATER)

    assert (update.status, type(update.error), device.manifest.version) == ("failed", errors.CloudUnreachable, "v1")
    assert device.update(LATER).status == "updated"
    assert device.manifest.version == "v2"


def test_after_a_rollback_nothing_is_downloaded(device, cloud):
    device.update(SAMPLE)
    cloud.publish("v2")
    device.update(SAMPLE)
    cloud.active, before = "v1", len(cloud.downloads)

    update = device.update(LATER)

    assert (update.status, device.manifest.version) == ("updated", "v1")
    assert cloud.downloads[before:] == ["/"]


def test_a_version_that_takes_no_embeddings_gets_no_sample_instead(device, cloud):
    device.update(SAMPLE)
    cloud.publish("v2", takes_embeddings=False)

    update = device.update(LATER)

    assert (update.status, type(update.error)) == ("failed", NoEncoder)
    assert "takes no embeddings" in str(update.error)
    assert not [asked for asked in cloud.asked if "sample" in asked]
    assert len(device.predict(LATER)) == 10


def test_a_refusal_of_the_embedding_is_told(device, cloud):
    device.prepare()
    facts = {"expected": "4 numbers", "received": "3 numbers", "remedy": "Send the sample."}
    cloud.fail(problem(422, "invalid_embedding", **facts))

    update = device.update(SAMPLE)

    assert isinstance(update.error, InvalidEmbedding)
    assert "sample" not in cloud.asked[0]


def test_a_sample_of_which_the_version_knows_nothing_is_not_sent_and_asks_whether_there_is_another_version(
    device, cloud
):
    device.update(SAMPLE)
    before = len(cloud.asked)

    update = device.update([999])

    assert (update.status, type(update.error)) == ("failed", errors.InvalidSample)
    assert (len(cloud.asked), cloud.downloads[3:]) == (before, ["/"])


def test_a_sample_of_which_only_the_next_version_knows_something_brings_that_version(device, cloud):
    device.update(SAMPLE)
    assert cloud.onnx.count(b"124") == 1  # in the vocabulary
    cloud.onnx = cloud.onnx.replace(b"124", b"999")
    cloud.publish("v2")

    update = device.update([999])

    assert (update.status, update.model_replaced, device.manifest.version) == ("updated", True, "v2")
    np.testing.assert_allclose(sent(cloud.asked[-1]), tiny.embed([124], "v2"), rtol=2**-11, atol=1e-6)


def test_a_sample_that_is_none_is_refused_without_a_word_to_the_cloud(device, cloud):
    device.update(SAMPLE)
    before = len(cloud.requests)

    update = device.update([])

    assert (type(update.error), len(cloud.requests)) == (errors.InvalidSample, before)


def test_a_recorded_answer_to_another_embedding_is_forged(make_device, cloud):
    key = SigningKey("key", bytes(32))
    plain, cloud.answer = cloud.answer, lambda request: signed(plain(request))

    def signed(response):
        response.headers[HEADER] = key.sign(response.content)
        return response

    device = make_device(sends="embedding", signing_key=key)
    first = device.update(SAMPLE)
    cloud.fail(lambda request: signed(httpx.Response(200, content=cloud.package([1], bytes(8)))))
    second = device.update(LATER)

    assert first.status == "updated"
    assert (second.status, type(second.error)) == ("failed", ForgedPackage)


def test_the_fake_generates_other_numbers_for_other_embeddings(device, cloud):
    # guards the fake, as in test_client.py
    for sample in (SAMPLE, LATER):
        device.update(sample)
    brought = [[int.from_bytes(sent(asked).tobytes())] for asked in cloud.asked]

    first, second = (values_for(each, cloud.representation)["hidden"].shift for each in brought)
    assert not np.array_equal(first, second)
    assert len(json.dumps(cloud.asked[0]["embedding"]["values"])) == 4 * 3 + 2


@pytest.mark.parametrize("sends", ["embeddings", None, "both"])
def test_what_is_sent_is_one_of_two(make_device, sends):
    with pytest.raises(ValueError, match=r"Expected sends to be one of \['sample', 'embedding'\], got "):
        make_device(sends=sends)
