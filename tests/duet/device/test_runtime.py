"""The device model: what it predicts, with which parameters, and what it refuses."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.duet.device.tiny_network as tiny
from duet.device import DeviceModel, runtime
from duet.device.runtime import _top
from duet.protocol.errors import CorruptPackage, InvalidSample, NoDeviceModel
from duet.protocol.package import ParameterPackage
from tests.duet.device.fake_cloud import REPRESENTATIONS, FakeCloud

SAMPLE = [101, 109, 117]


def parameters_from(seed):
    random = np.random.default_rng(seed)
    return {
        layer.name: (
            random.normal(size=(layer.outputs, layer.inputs)).astype(np.float32),
            random.normal(size=layer.outputs).astype(np.float32),
        )
        for layer in tiny.TABLE
    }


def test_a_new_model_predicts_with_the_shared_parameters(model):
    scores = model.scores(SAMPLE)

    assert model.is_shared
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, tiny.forward(SAMPLE, tiny.SHARED), rtol=1e-5, atol=1e-5)


def test_the_shared_parameters_are_those_of_the_file(model):
    for name, (weight, bias) in tiny.SHARED.items():
        np.testing.assert_array_equal(model.shared[name][0], weight)
        np.testing.assert_array_equal(model.shared[name][1], bias)


@pytest.mark.parametrize("representation", REPRESENTATIONS, ids=str)
def test_the_forward_pass_follows_every_representation(model, representation):
    cloud = FakeCloud()
    cloud.representation = representation
    package = ParameterPackage.decode(cloud.package(SAMPLE), model.table, version=cloud.digest)
    parameters = package.compose(model.shared)

    model.swap(parameters, sample=SAMPLE)

    np.testing.assert_allclose(model.scores(SAMPLE), tiny.forward(SAMPLE, parameters), rtol=1e-5, atol=1e-5)


def test_a_reset_gives_back_the_shared_scores_to_the_last_digit(model):
    before = model.scores(SAMPLE)

    model.swap(parameters_from(1))
    swapped = model.scores(SAMPLE)
    model.reset()

    assert not np.array_equal(swapped, before)
    np.testing.assert_array_equal(model.scores(SAMPLE), before)


def test_predictions_beside_swaps_use_all_of_the_old_or_all_of_the_new_parameters(model):
    choices = [parameters_from(seed) for seed in (1, 2)]
    known = set()
    for parameters in choices:
        model.swap(parameters)
        known.add(model.scores(SAMPLE).tobytes())
    seen, stop = [set(), set()], threading.Event()

    def predict(mine):
        while not stop.is_set():
            mine.add(model.scores(SAMPLE).tobytes())

    threads = [threading.Thread(target=predict, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    deadline, turn = time.monotonic() + 30, 0
    while time.monotonic() < deadline and (turn < 2000 or any(len(mine) < 2 for mine in seen)):
        model.swap(choices[turn % 2])
        turn += 1
    stop.set()
    for thread in threads:
        thread.join()

    assert seen == [known, known]


def test_later_changes_to_the_callers_arrays_change_nothing(model):
    parameters = parameters_from(1)
    model.swap(parameters)
    before = model.scores(SAMPLE)

    parameters["hidden"][0][:] = 0

    np.testing.assert_array_equal(model.scores(SAMPLE), before)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda parameters: parameters.pop("output"),
        lambda parameters: parameters.update(other=parameters["output"]),
        lambda parameters: parameters.update(output=parameters["hidden"]),
        lambda parameters: parameters.update(output=(parameters["output"][0], parameters["output"][1][:, None])),
        lambda parameters: parameters.update(output=tuple(array.astype(np.float64) for array in parameters["output"])),
    ],
    ids=["missing layer", "unknown layer", "weight shape", "bias shape", "dtype"],
)
def test_a_swap_that_does_not_fit_is_refused_and_the_old_parameters_stay(model, spoil):
    model.swap(parameters_from(1))
    before = model.scores(SAMPLE)
    parameters = parameters_from(2)
    spoil(parameters)

    with pytest.raises(ValueError, match="Expected"):
        model.swap(parameters)

    np.testing.assert_array_equal(model.scores(SAMPLE), before)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_parameters_that_are_not_finite_are_refused(model, value):
    before = model.scores(SAMPLE)
    parameters = parameters_from(1)
    parameters["output"][1][3] = value

    with pytest.raises(CorruptPackage, match=r"dyn\.output\.bias"):
        model.swap(parameters)

    np.testing.assert_array_equal(model.scores(SAMPLE), before)


def test_parameters_that_overflow_on_the_sample_are_refused(model):
    before = model.scores(SAMPLE)
    huge = {name: (weight * np.float32(1e30), bias) for name, (weight, bias) in parameters_from(1).items()}

    with pytest.raises(CorruptPackage, match="not finite"):
        model.swap(huge, sample=SAMPLE)

    np.testing.assert_array_equal(model.scores(SAMPLE), before)


def test_the_catalogue_is_ranked_without_what_the_sample_has_seen(model):
    # six items: the first is older than what the model reads, but was seen all the same
    sample = [124, 101, 102, 103, 104, 105]

    ranking = model.predict(sample, k=100)

    assert sorted(ranking.ids) == [raw for raw in range(101, 125) if raw not in sample]
    assert list(ranking.scores) == sorted(ranking.scores, reverse=True)


def test_the_best_items_come_first_with_their_titles(model):
    scores = model.scores(SAMPLE)

    ranking = model.predict(SAMPLE, k=3, exclude_seen=False)

    best = np.argsort(-scores, kind="stable")[:3]
    assert ranking.ids == tuple(101 + int(place) for place in best)
    assert ranking.titles == tuple(tiny.VOCABULARY.titles[place] for place in best)
    assert ranking.scores == tuple(float(score) for score in scores[best])
    assert len(ranking) == 3


@pytest.mark.parametrize("tie", tiny.TIES, ids=str)
def test_items_with_equal_scores_keep_catalogue_order(model, tie):
    ranking = model.predict(SAMPLE, candidates=tie[::-1])

    assert ranking.scores[0] == ranking.scores[1]
    assert ranking.ids == tie


def test_only_the_candidates_are_ranked_each_once_and_seen_ones_too(model):
    ranking = model.predict(SAMPLE, candidates=[120, 101, "120", 111])

    assert sorted(ranking.ids) == [101, 111, 120]


def test_no_candidates_make_an_empty_ranking(model):
    assert model.predict(SAMPLE, candidates=[]).ids == ()


@pytest.mark.parametrize("candidate", [999, "x", None, True, 101.0, [101]], ids=repr)
def test_an_unknown_candidate_is_refused(model, candidate):
    with pytest.raises(InvalidSample, match="candidate"):
        model.predict(SAMPLE, candidates=[101, candidate])


@pytest.mark.parametrize(
    "sample", [[], [999], None, "101", [101.5], [None], [float("nan")], {"items": [101]}], ids=repr
)
def test_a_sample_that_says_nothing_is_refused(model, sample):
    with pytest.raises(InvalidSample):
        model.predict(sample)


def test_a_ranking_of_nothing_is_a_mistake_of_the_caller(model):
    with pytest.raises(ValueError, match="at least 1"):
        model.predict(SAMPLE, k=0)


@pytest.mark.parametrize("scores", [1, 24 * 7, 24 * 300, 24 * 301])
def test_a_batch_scores_like_its_samples_one_by_one_however_many_go_at_once(model, monkeypatch, scores):
    monkeypatch.setattr(runtime, "_SCORES", scores)
    random = np.random.default_rng(3)
    samples = [random.integers(101, 125, size=random.integers(1, 9)).tolist() for _ in range(300)]
    model.swap(parameters_from(1))

    together = model.scores_batch(samples)

    np.testing.assert_allclose(together, [model.scores(sample) for sample in samples], rtol=1e-5, atol=1e-5)
    assert model.scores_batch([]).shape == (0, 24)


@given(st.lists(st.integers(-3, 3), max_size=60), st.integers(1, 12))
def test_the_top_is_what_sorting_everything_gives(scores, k):
    expected = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:k]

    assert _top(np.array(scores, np.float32), k).tolist() == expected


def test_scores_that_are_not_numbers_come_last():
    scores = np.array([np.nan] * 20 + [1.0, 2.0], np.float32)

    assert _top(scores, 3).tolist() == [21, 20, 0]


def edited(old, new):
    data = tiny.FIXTURE.read_bytes()
    assert data.count(old) >= 1
    assert len(old) == len(new)
    return data.replace(old, new)


@pytest.mark.parametrize(
    ("onnx", "reason"),
    [
        (b"", "cannot open"),
        (b"\x00" * 100, "cannot open"),
        (tiny.FIXTURE.read_bytes()[:-100], "cannot open"),
        (edited(b"duet.shared", b"duet.sharks"), "lack 'duet.shared'"),
        (edited(b'"kind": "sequence"', b'"kind": "telegram"'), "cannot be read"),
        (edited(b'"name": "hidden", "outputs": 7', b'"name": "hidden", "outputs": 5'), "cannot be read"),
        (edited(b"dyn.output.bias", b"dyn.output.bios"), "overridable initializer dyn.output.bias"),
        (edited(b"Space opera #1", b'Space "pera #1'), "cannot be read"),
    ],
    ids=["empty", "zeros", "truncated", "metadata", "signature", "shared length", "initializer", "vocabulary"],
)
def test_a_file_that_is_no_device_model_is_refused_with_the_reason(onnx, reason):
    with pytest.raises(NoDeviceModel, match=reason):
        DeviceModel.load(onnx)


def test_shared_values_that_are_not_those_of_the_graph_are_refused():
    data = bytearray(tiny.FIXTURE.read_bytes())
    place = data.index(b"duet.shared") + 40
    data[place : place + 40] = b"A" * 40

    with pytest.raises(NoDeviceModel, match="not the values in its graph"):
        DeviceModel.load(bytes(data))


def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path):
    with pytest.raises(NoDeviceModel, match=r"missing\.onnx"):
        DeviceModel.load(tmp_path / "missing.onnx")


def test_the_shared_parameters_can_be_had_beside_those_in_place(model):
    shared = model.scores(SAMPLE)
    doubled = {name: (weight * 2, bias * 2) for name, (weight, bias) in model.shared.items()}
    model.swap(doubled)

    beside = model.with_shared()

    np.testing.assert_array_equal(beside.scores(SAMPLE), shared)
    assert not model.is_shared
